import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  attentionConsts,
  attentionPrefill,
  type AttentionPrefillOptions,
  chooseQueryTile,
  queryTiles,
  queryTileSizes,
} from "../../src/gpu/kernels/attention-prefill.ts";
import type { Dtype } from "../../src/gpu/tensor.ts";
import {
  assertClose,
  normals,
  output,
  rounded,
  runTwice,
  skipWithoutGpu,
  testGpu,
  upload,
} from "../support/gpu.ts";
import { type Geometry, pagedBatch, type Sequence } from "../support/paged-batch.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);

/**
 * Queries are rounded to f16, by 2^-11 / sqrt(3) in the mean, which makes scores (of size 1) and so the logarithms of the
 * weights off by as much; then weights are rounded likewise. Both are independent from key to key, as the values are.
 */
const tolerance = { relativeRms: 6e-4, worst: 6e-3 };
/** What rounding the outputs to f16 adds to that. */
const f16Tolerance = { relativeRms: 9e-4, worst: 9e-3 };

const plain: Geometry = {
  heads: 2,
  kvHeads: 2,
  headDim: 128,
  blockSize: 16,
  dtype: "f16",
  scale: 128 ** -0.5,
};

/** All positions of a sequence as queries. */
function whole(seed: number, prefix: number, context: number): Sequence {
  return { seed, prefix, context, firstQuery: 0 };
}

const ragged: Sequence[] = [
  whole(1, 70, 70), // a prefill of a whole prefix
  { seed: 2, prefix: 5, context: 21, firstQuery: 20 }, // decoding
  { seed: 3, prefix: 0, context: 211, firstQuery: 106 }, // the last chunk of a causal prefill
  { seed: 4, prefix: 33, context: 99, firstQuery: 0 }, // a resume: prefix and causal replay
  whole(5, 0, 1),
];

function tilesOf(sequences: readonly Sequence[], tileTokens: number) {
  let firstToken = 0;
  const runs = sequences.map(({ context, firstQuery }, sequence) => {
    const run = { firstToken, tokens: context - firstQuery, sequence };
    firstToken += run.tokens;
    return run;
  });
  // Step tensors are as long as the longest step: what is left over has no tokens.
  const tiles = Uint32Array.from([...queryTiles(runs, tileTokens), 0, 0, 0, 0]);
  return { tiles: upload(gpu, "tiles", [tiles.length / 4, 4], tiles, "u32"), tileTokens };
}

const [smallTile] = queryTileSizes;

interface Run extends Partial<AttentionPrefillOptions> {
  tileTokens: number;
}

async function run(geometry: Geometry, sequences: Sequence[], { tileTokens, ...change }: Run) {
  const { options, expected } = pagedBatch(gpu, geometry, sequences);
  const dispatch = attentionPrefill({ ...options, ...tilesOf(sequences, tileTokens), ...change });
  const { y } = await runTwice(gpu, [dispatch], { y: change.y ?? options.y });
  return { y, expected };
}

/** In tiles of every size, which must not show in the bits. */
async function check(geometry: Geometry, sequences: Sequence[], scale = 1): Promise<void> {
  const { relativeRms, worst } = tolerance;
  const { y: first, expected } = await run(geometry, sequences, { tileTokens: smallTile });
  assertClose(first, expected, { relativeRms: relativeRms * scale, worst: worst * scale });
  for (const tileTokens of queryTileSizes.slice(1)) {
    expect((await run(geometry, sequences, { tileTokens })).y).toEqual(first);
  }
}

const geometries: Record<string, Partial<Geometry>> = {
  "head_dim 64": { headDim: 64, scale: 0.125 },
  "head_dim 96": { headDim: 96, scale: 96 ** -0.5 },
  "grouped heads 6/2": { heads: 6, kvHeads: 2 },
  "blocks of 4": { blockSize: 4 },
  "soft cap": { softCap: 2 },
  "window 1": { window: 1 },
  "window 30": { window: 30 },
  "window 100": { window: 100 },
};

const lacks = skipWithoutGpu(!gpu.traits.hasSubgroupMatrix);

describe("attention-prefill (needs a GPU with 16 x 16 x 16 matrix units)", () => {
  for (const [prefix, context] of [
    [0, 64],
    [64, 64],
    [65, 65],
    [130, 200],
    [0, 300],
  ]) {
    test.skipIf(lacks)(`${context} tokens, prefix ${prefix}`, () =>
      check(plain, [whole(7, prefix, context)]),
    );
  }

  for (const [name, change] of Object.entries(geometries)) {
    test.skipIf(lacks)(`ragged batch: ${name}`, () => check({ ...plain, ...change }, ragged));
  }

  test.skipIf(lacks)("ragged batch: i8, grouped heads", () =>
    // Keys and values are rounded to f16 as well, when they are staged.
    check({ ...plain, heads: 4, blockSize: 4, dtype: "i8" }, ragged, 2),
  );

  test.skipIf(lacks)("scores that move the reference again and again", () =>
    // Scores of size 8 instead of 1: their errors grow as much.
    check({ ...plain, scale: 8 * plain.scale }, [whole(6, 0, 700), whole(8, 500, 500)], 8),
  );

  for (const dtype of ["f32", "f16"] as const satisfies Dtype[]) {
    test.skipIf(lacks)(`queries and outputs of ${dtype}, gated`, async () => {
      const { options } = pagedBatch(gpu, plain, ragged);
      const [tokens, row] = options.y.shape;
      const gates = rounded(normals(77, tokens * (row + 16)), dtype);
      const y = output(gpu, "y", [tokens, row], undefined, dtype);
      const gate = { rows: upload(gpu, "gate", [tokens, row + 16], gates, dtype), offset: 16 };
      const { y: written, expected } = await run(plain, ragged, { y, gate, tileTokens: smallTile });
      const gated = expected.map((value, i) => {
        const at = Math.floor(i / row) * (row + 16) + 16 + (i % row);
        return value / (1 + Math.exp(-gates[at]));
      });
      assertClose(written, gated, dtype === "f16" ? f16Tolerance : tolerance);
    });
  }

  test.skipIf(lacks)("a token's result is the same alone as in a batch, bit for bit", async () => {
    for (const geometry of [plain, { ...plain, window: 30 }]) {
      const { y: together } = await run(geometry, ragged, { tileTokens: smallTile });
      let at = 0;
      for (const sequence of ragged) {
        const { y: alone } = await run(geometry, [sequence], { tileTokens: smallTile });
        expect(alone).toEqual(together.slice(at, at + alone.length));
        at += alone.length;
      }
      expect(at).toBe(together.length);
    }
  });
});

test("queryTiles cuts runs at sequences and at the size of a tile", () => {
  for (const size of queryTileSizes) {
    const runs = [
      { firstToken: 0, tokens: size + 1, sequence: 0 },
      { firstToken: size + 1, tokens: 2, sequence: 3 },
    ];
    expect([...queryTiles(runs, size)]).toEqual([0, size, 0, 0, size, 1, 0, 0, size + 1, 2, 3, 0]);
  }
});

test("tiles are as large as is fastest, which depends on how many of them there are", () => {
  const choose = (tokens: number, heads = 12) =>
    chooseQueryTile([{ firstToken: 0, tokens, sequence: 0 }], heads);
  // As measured on an H100.
  expect([64, 256, 512, 704].map((tokens) => choose(tokens))).toEqual([64, 64, 64, 64]);
  expect([768, 1024, 1536, 2048].map((tokens) => choose(tokens))).toEqual([96, 96, 96, 96]);
  expect(choose(4096)).toBe(128);
  expect([256, 1024].map((tokens) => choose(tokens, 32))).toEqual([64, 128]);
});

test("a workgroup's keys, values, scores and weights fit the memory that devices with matrix units have", () => {
  for (const headDim of [64, 96, 128]) {
    for (const queries of queryTileSizes) {
      const consts = attentionConsts(headDim, queries);
      const [subgroups, items] = ["SUBGROUPS", "ITEMS"].map((name) => Number.parseInt(consts[name], 10));
      const [keys, stride] = [32, headDim / 8 + 1];
      const scores = 2 * keys * stride + queries * (keys / 4 + 1 + keys / 8 + 1);
      expect(16 * Math.max(queries * stride, scores) + 4 * subgroups).toBeLessThanOrEqual(48 * 1024);
      expect(items * 32 * subgroups).toBeGreaterThanOrEqual((keys * headDim) / 8);
    }
  }
});

describe("attention-prefill refuses", () => {
  const { options } = pagedBatch(gpu, plain, [whole(1, 0, 2)]);
  const tiles = tilesOf([whole(1, 0, 2)], smallTile);
  const cases: [string, Partial<AttentionPrefillOptions>][] = [
    ["expected headDim to be one of 64, 96, 128, got 80", { headDim: 80 }],
    ["expected kv to be one of f16, i8, got f32", { kv: { ...options.kv, dtype: "f32" } }],
    ["expected tileTokens to be one of 64, 96, 128, got 80", { tileTokens: 80 }],
    ["expected the offset in q to be a multiple of 8, got 4", { qOffset: 4 }],
    ["expected q to have at least 280 columns, got 272", { qOffset: 24 }],
    ["expected y_row = heads * headDim = 512, got 256", { heads: 4 }],
  ];
  for (const [message, change] of cases) {
    test(message, () => {
      expect(() => attentionPrefill({ ...options, ...tiles, ...change })).toThrow(
        `Cannot run attention-prefill: ${message}`,
      );
    });
  }
});
