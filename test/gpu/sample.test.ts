import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  sample,
  type SampleSettings,
  SAMPLE_SETTINGS_WORDS,
  writeSampleSettings,
} from "../../src/gpu/kernels/sample.ts";
import { normals, output, runTwice, skipWithoutGpu, testGpu, traitVariants, upload } from "../support/gpu.ts";
import { gumbel, kept, sampleReference, threefry } from "../support/sample-reference.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);
const greedy: SampleSettings = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0n, step: 0 };
const plain: SampleSettings = { ...greedy, temperature: 1 };
/** One of each filter, and all together at another temperature. */
const filters: Record<string, Partial<SampleSettings>> = {
  none: {},
  cool: { temperature: 0.6 },
  "top_k 5": { topK: 5 },
  "top_p 0.8": { topP: 0.8 },
  "min_p 0.1": { minP: 0.1 },
  all: { temperature: 1.5, topK: 9, topP: 0.9, minP: 0.02 },
};

/** Draws a token for each row, with settings a row. */
async function draw(
  traits: typeof gpu.traits,
  rows: readonly Float32Array[],
  settings: readonly SampleSettings[],
): Promise<number[]> {
  const vocab = rows[0].length;
  const values = new Float32Array(rows.length * vocab);
  rows.forEach((row, index) => values.set(row, index * vocab));
  const words = new Uint32Array(rows.length * SAMPLE_SETTINGS_WORDS);
  settings.forEach((one, index) => writeSampleSettings(words, index, one));
  const sampled = output(gpu, "sampled", [rows.length], new Uint32Array(rows.length).fill(0xffffffff), "u32");
  const dispatch = sample(traits, {
    logits: upload(gpu, "logits", [rows.length, vocab], values),
    settings: upload(gpu, "settings", [rows.length, SAMPLE_SETTINGS_WORDS], words, "u32"),
    sampled,
  });
  return [...(await runTwice(gpu, [dispatch], { sampled })).sampled];
}

function logitsOf(seed: number, vocab: number, scale: number): Float32Array {
  return Float32Array.from(normals(seed, vocab, scale));
}

describe("threefry reference", () => {
  // kat_vectors of Random123 for threefry2x32 with 20 rounds
  test.each([
    [
      [0, 0],
      [0, 0],
      [0x6b200159, 0x99ba4efe],
    ],
    [
      [0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x1cb996fc, 0xbb002be7],
    ],
    [
      [0x13198a2e, 0x03707344],
      [0x243f6a88, 0x85a308d3],
      [0xc4923a9c, 0x483df7a0],
    ],
  ] as [number, number][][])("known answer of key %p, counter %p", (key, counter, answer) => {
    expect(threefry(key, counter)).toEqual(answer);
  });
});

for (const traits of traitVariants(gpu).slice(0, 2)) {
  // A software adapter takes milliseconds for each row of a workgroup as large as a GPU's: fewer rows there.
  const slow = gpu.traits.isCpu && !traits.isCpu;
  describe(`sample, ${traits.isCpu ? "cpu" : "gpu"}`, () => {
    test("the Gumbel terms are those of the reference", async () => {
      // Of two tokens the second one is as far behind as its noise is ahead, give or take 2e-5: once it wins, once not.
      const keys = [
        0n,
        0xffffffffffffffffn,
        0x03707344_13198a2en,
        ...Array.from(
          { length: slow ? 5 : 61 },
          (_, i) => (BigInt(i) * 0x9e3779b97f4a7c15n) & 0xffffffffffffffffn,
        ),
      ];
      const steps = [0, 0xffffffff, 0x243f6a88];
      const cases = keys.flatMap((seed, index) =>
        [-2e-5, 2e-5].map((nudge) => ({ seed, step: steps[index % 3], nudge })),
      );
      const rows = cases.map(({ seed, step, nudge }) =>
        Float32Array.of(0, gumbel(seed, step, 0) - gumbel(seed, step, 1) + nudge),
      );
      const settings = cases.map(({ seed, step }) => ({ ...plain, seed, step }));
      const wanted = cases.map(({ nudge }) => (nudge > 0 ? 1 : 0));
      expect(await draw(traits, rows, settings)).toEqual(wanted);
    });

    test("temperature 0 takes the lowest of the largest logits", async () => {
      const flat = new Float32Array(1001).fill(-2);
      const tie = flat.with(700, 3).with(300, 3).with(999, 3);
      const cases: [Float32Array, number][] = [
        [flat, 0],
        [tie, 300],
        [flat.with(1000, -1), 1000],
        [flat.with(17, -0).with(900, 0), 17],
        [flat.with(0, NaN).with(5, 1e-40), 5],
        [Float32Array.from(tie).fill(NaN, 0, 10).fill(NaN, 600), 300],
        [new Float32Array(1001).fill(NaN), 0],
        [new Float32Array(1001).fill(NaN).with(44, -Infinity), 44],
        [new Float32Array(1001).fill(-Infinity), 0],
      ];
      const rows = cases.map(([row]) => row);
      const wanted = cases.map(([, token]) => token);
      expect(await draw(traits, rows, Array<SampleSettings>(rows.length).fill(greedy))).toEqual(wanted);
    });

    test("filters that leave one token, and odd logits", async () => {
      const row = logitsOf(7, 1001, 2).with(600, 20).with(601, 19.99);
      const nan = Float32Array.from(row).fill(NaN, 0, 600);
      const only = new Float32Array(1001).fill(NaN);
      const cases: [Float32Array, Partial<SampleSettings>, number][] = [
        [row, { topK: 1 }, 600],
        [row, { topP: 0 }, 600],
        [row, { topP: 0.4 }, 600],
        [row, { minP: 1 }, 600],
        [row, { temperature: 1e-6 }, 600],
        [row, { temperature: 1e-4, topK: 50, topP: 0.999 }, 600],
        [nan, { topK: 1, topP: 0.5 }, 600],
        [row.with(3, Infinity), { topP: 0.9 }, 3],
        [row.with(3, 3e38), { temperature: 1e-4 }, 3],
        [only, {}, 0],
        [only.with(44, 0), { topK: 9, topP: 0.3 }, 44],
        [only.with(44, -Infinity), { topK: 9, topP: 0.3 }, 44],
        [new Float32Array(1001).fill(-Infinity).with(9, -5), { temperature: 100 }, 9],
      ];
      const rows = cases.map(([values]) => values);
      const settings = cases.map(([, changes], step) => ({ ...plain, ...changes, seed: 3n, step }));
      expect(await draw(traits, rows, settings)).toEqual(cases.map(([, , token]) => token));
    });

    test("ties with the k-th token, and at the edge of top_p, are kept", async () => {
      const row = Float32Array.of(1, 0, 2, 1, 0, 1, -1);
      const edges: Partial<SampleSettings>[] = [{ topK: 2 }, { topK: 4 }, { topP: 0.5 }]; // p(2) = 0.41
      const count = slow ? 40 : 400;
      for (const edge of edges) {
        const settings = Array.from({ length: count }, (_, step) => ({ ...plain, ...edge, step }));
        const drawn = new Set(await draw(traits, Array<Float32Array>(count).fill(row), settings));
        expect([...drawn].sort()).toEqual([0, 2, 3, 5]);
      }
    });

    for (const vocab of slow ? [1, 37, 1001] : [1, 2, 37, 1001, 8192]) {
      test(`agrees with the float64 sampler, vocabulary ${vocab}`, async () => {
        const count = slow ? 2 : vocab > 2000 ? 12 : 24;
        const cases = Object.values(filters).flatMap((filter, index) =>
          Array.from({ length: count }, (_, i) => {
            const seed = (BigInt(i) << 33n) + BigInt(index);
            return {
              row: logitsOf(i, vocab, 1 + (i % 4)),
              settings: { ...plain, ...filter, seed, step: 7 * i },
            };
          }),
        );
        const rows = cases.map(({ row }) => row);
        const settings = cases.map((one) => one.settings);
        const drawn = await draw(traits, rows, settings);
        const wanted = cases.map(({ row, settings }) => sampleReference(row, settings));
        const clear = [...wanted.keys()].filter((index) => wanted[index].clear);
        expect(clear.map((index) => drawn[index])).toEqual(clear.map((index) => wanted[index].token));
        expect(wanted.length - clear.length).toBeLessThanOrEqual(wanted.length / 50);
      });
    }

    const why = slow ? " (needs a GPU: 4000 rows of 256 lanes with barriers)" : "";
    for (const [name, filter] of Object.entries(filters)) {
      test.skipIf(skipWithoutGpu(slow))(
        `draws follow the softmax of what is kept, filter ${name}${why}`,
        async () => {
          const row = logitsOf(12, 12, 1.2);
          const count = 4000;
          const settings = Array.from({ length: count }, (_, i) => ({
            ...plain,
            ...filter,
            seed: 99n,
            step: i,
          }));
          const drawn = await draw(traits, Array<Float32Array>(count).fill(row), settings);
          const counts = new Float64Array(12);
          for (const token of drawn) counts[token]++;
          const tokens = kept(row, settings[0]);
          const total = [...tokens.values()].reduce((sum, z) => sum + Math.exp(z), 0);
          let chiSquare = 0;
          for (const [token, z] of tokens) {
            const expected = (count * Math.exp(z)) / total;
            chiSquare += (counts[token] - expected) ** 2 / expected;
            counts[token] = 0;
          }
          expect(counts.every((left) => left === 0)).toBe(true);
          expect(chiSquare).toBeLessThan(chiSquareLimit(tokens.size - 1));
        },
      );
    }

    test("a row draws the same alone and in a batch", async () => {
      const filtersOf = Object.values(filters);
      const rows = filtersOf.map((_, i) => logitsOf(i, 333, 1));
      const settings = filtersOf.map((filter, i) => ({ ...plain, ...filter, seed: BigInt(i) }));
      const together = await draw(traits, rows, settings);
      const reversed = await draw(traits, rows.toReversed(), settings.toReversed());
      expect(reversed.toReversed()).toEqual(together);
      const alone = [];
      for (const [i, row] of rows.entries()) alone.push(...(await draw(traits, [row], [settings[i]])));
      expect(alone).toEqual(together);
    });
  });
}

/** The 99.9 % quantile, by Wilson and Hilferty's approximation. */
function chiSquareLimit(degrees: number): number {
  const spread = 2 / (9 * degrees);
  return degrees * (1 - spread + 3.09 * Math.sqrt(spread)) ** 3;
}
