import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { attention } from "../../src/gpu/kernels/attention.ts";
import type { GpuTraits } from "../../src/gpu/gpu.ts";
import { assertClose, runTwice, testGpu, traitVariants } from "../support/gpu.ts";
import { type Batch, type Geometry, pagedBatch, type Sequence } from "../support/paged-batch.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000); // SwiftShader compiles the zeroing of workgroup memory word by word

// The reference runs on the rounded cache, so only f32 arithmetic errs. A score of d products of normal numbers, times
// d^-0.5, is of size 1 to 5 and off by a few 2^-24 of that; WGSL lets exp(x) err by 3 + 2|x| units, 20 for the weights
// that count. A weight is thus off by about 1e-6, and with it the weighted mean.
const tolerance = { relativeRms: 2e-6, worst: 2e-5 };

const plain: Geometry = { heads: 2, kvHeads: 2, headDim: 16, blockSize: 4, dtype: "f32", scale: 0.25 };

/** All positions of a sequence as queries. */
function whole(seed: number, prefix: number, context: number): Sequence {
  return { seed, prefix, context, firstQuery: 0 };
}

/** The last position as the only query. */
function decode(seed: number, prefix: number, context: number): Sequence {
  return { seed, prefix, context, firstQuery: context - 1 };
}

async function run(traits: GpuTraits, { options }: Batch): Promise<Float32Array> {
  const { y } = await runTwice(gpu, [attention(traits, options)], { y: options.y });
  return y;
}

async function check(traits: GpuTraits, geometry: Geometry, sequences: Sequence[], scale = 1): Promise<void> {
  const batch = pagedBatch(gpu, geometry, sequences);
  const { relativeRms, worst } = tolerance;
  assertClose(await run(traits, batch), batch.expected, {
    relativeRms: relativeRms * scale,
    worst: worst * scale,
  });
}

const ragged: Sequence[] = [
  whole(1, 7, 7), // a prefill of a whole prefix
  decode(2, 5, 21),
  { seed: 3, prefix: 0, context: 11, firstQuery: 6 }, // the last chunk of a causal prefill
  { seed: 4, prefix: 3, context: 9, firstQuery: 0 }, // a resume: prefix and causal replay
  decode(5, 0, 1),
];

/** Shared by the tests of single options, each over all modes of query. */
const geometries: Record<string, Partial<Geometry>> = {
  "grouped heads 8/2": { heads: 8, kvHeads: 2 },
  "three heads": { heads: 3, kvHeads: 1 },
  "head_dim 8, blocks of 1": { headDim: 8, blockSize: 1 },
  "head_dim 24, bf16": { headDim: 24, dtype: "bf16" },
  "head_dim 64, f16, blocks of 16": { headDim: 64, blockSize: 16, dtype: "f16", scale: 0.125 },
  "head_dim 24, i8": { headDim: 24, dtype: "i8" },
  "grouped heads 6/3 of 64, i8, blocks of 16": {
    heads: 6,
    kvHeads: 3,
    headDim: 64,
    blockSize: 16,
    dtype: "i8",
  },
  "head_dim 128": { headDim: 128, blockSize: 16, scale: 128 ** -0.5 },
  "soft cap": { softCap: 2 },
  "window 3": { window: 3 },
  "window 1": { window: 1 },
};

for (const traits of traitVariants(gpu).slice(0, 2)) {
  describe(`attention, ${traits.isCpu ? "cpu" : "gpu"}`, () => {
    for (const prefix of [0, 1, 5, 13]) {
      test(`13 tokens, prefix ${prefix}`, () => check(traits, plain, [whole(7, prefix, 13)]));
    }

    for (const [name, change] of Object.entries(geometries)) {
      test(`ragged batch: ${name}`, () => check(traits, { ...plain, ...change }, ragged));
    }

    test("decode with contexts that end around a tile", () =>
      check(traits, plain, [decode(1, 0, 511), decode(2, 3, 512), decode(3, 512, 513)]));

    test("decode with the largest score in any of three tiles", () =>
      // Of six heads' largest scores, some lie behind the first 512 keys: what was summed before is rescaled.
      check(traits, plain, [decode(5, 0, 1100), decode(6, 9, 1400), decode(7, 0, 1500)]));

    test("window 16, in a prefix and behind it", () =>
      check(traits, { ...plain, window: 16 }, [whole(1, 20, 26), decode(2, 40, 40), decode(3, 0, 600)]));

    test("soft cap far beyond its bend", () =>
      // 50 * tanh(score / 50) for scores of several hundred: errors grow with the cap.
      check(traits, { ...plain, scale: 30, softCap: 50 }, ragged, 50));

    test("scores that would overflow without the running maximum", () =>
      check(traits, { ...plain, scale: 60 }, [...ragged, decode(6, 0, 530)], 240));

    test("a causal prefill in chunks equals the whole one, bit for bit", async () => {
      const expected = await run(traits, pagedBatch(gpu, plain, [whole(9, 0, 19)]));
      const row = plain.heads * plain.headDim;
      for (const [from, to] of [
        [0, 6],
        [6, 13],
        [13, 19],
      ]) {
        const chunk = pagedBatch(gpu, plain, [{ seed: 9, prefix: 0, context: to, firstQuery: from }]);
        // The generator gives the same leading values whatever the length, so the chunk's keys are the whole's.
        expect(await run(traits, chunk)).toEqual(expected.slice(from * row, to * row));
      }
    });

    test("a token's result is the same alone as in a batch, bit for bit", async () => {
      const together = await run(traits, pagedBatch(gpu, plain, ragged));
      let at = 0;
      for (const sequence of ragged) {
        const alone = await run(traits, pagedBatch(gpu, plain, [sequence]));
        expect(alone).toEqual(together.slice(at, at + alone.length));
        at += alone.length;
      }
      expect(at).toBe(together.length);
    });

    test("no tokens, no work", () => {
      const { options } = pagedBatch(gpu, plain, [decode(1, 0, 2)]);
      const none = { shape: [0, 4] };
      const dispatch = attention(traits, {
        ...options,
        q: { ...options.q, shape: [0, options.q.shape[1]] },
        y: { ...options.y, shape: [0, options.y.shape[1]] },
        tokensMeta: { ...options.tokensMeta, ...none },
      });
      expect(dispatch.workgroups[1]).toBe(0);
    });
  });
}

describe("attention refuses", () => {
  const { options } = pagedBatch(gpu, plain, [decode(1, 0, 2)]);
  const cases: [string, Partial<typeof options>][] = [
    ["expected 48 scales of kv, got 0", { kv: { ...options.kv, dtype: "i8" } }],
    ["expected heads to be a multiple of 3, got 2", { kvHeads: 3 }],
    ["expected headDim to be a multiple of 8, got 12", { headDim: 12 }],
    ["expected kv_channels = kvHeads * headDim = 16, got 32", { kvHeads: 1 }],
    ["expected y_row = heads * headDim = 64, got 32", { heads: 4 }],
    ["expected q to have at least 52 columns, got 48", { qOffset: 20 }],
    ["expected headDim up to 512, got 1024", { headDim: 1024 }],
  ];
  for (const [message, change] of cases) {
    test(message, () => {
      expect(() => attention(gpu.traits, { ...options, ...change })).toThrow(
        `Cannot run attention: ${message}`,
      );
    });
  }
});
