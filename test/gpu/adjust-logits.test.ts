import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  type Adjustment,
  ADJUSTMENT_WORDS,
  adjustLogits,
  FORBIDDEN_LOGIT,
  placeAdjustments,
  writeAdjustment,
} from "../../src/gpu/kernels/adjust-logits.ts";
import {
  sample,
  SAMPLE_SETTINGS_WORDS,
  type SampleSettings,
  writeSampleSettings,
} from "../../src/gpu/kernels/sample.ts";
import {
  assertClose,
  normals,
  output,
  runTwice,
  testGpu,
  traitVariants,
  uniforms,
  upload,
} from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
// Two roundings and a division (2.5 units in the last place) of numbers of a few times the root mean square.
const tolerance = { relativeRms: 3e-7, worst: 5e-6 };

function encode(adjustments: readonly Adjustment[]): Uint32Array {
  const words = new Uint32Array(adjustments.length * ADJUSTMENT_WORDS);
  adjustments.forEach((adjustment, index) => writeAdjustment(words, index, adjustment));
  return words;
}

function reference(logit: number, { bias = 0, penalty = 1, addition = 0 }: Adjustment): number {
  const [b, p, a] = [bias, penalty, addition].map(Math.fround);
  const biased = logit + b;
  return (biased > 0 ? biased / p : biased * p) + a;
}

/** Some of each kind, for every third element. */
function adjustmentsFor(elements: number, seed: number): Adjustment[] {
  const random = uniforms(seed);
  return Array.from({ length: Math.ceil(elements / 3) }, (_, index) => {
    const element = 3 * index;
    const [bias, penalty, addition] = [10 * random() - 5, 0.5 + random(), -4 * random()];
    const kinds: Adjustment[] = [
      { element, bias },
      { element, penalty },
      { element, addition },
      { element, bias, penalty, addition },
      { element, bias, penalty, addition: FORBIDDEN_LOGIT },
    ];
    return kinds[index % kinds.length];
  });
}

for (const traits of traitVariants(gpu).slice(0, 2)) {
  describe(`adjust-logits, ${traits.isCpu ? "cpu" : "gpu"}`, () => {
    for (const [rows, vocab] of [
      [1, 1],
      [1, 37],
      [3, 1001],
      [7, 4099],
    ]) {
      test(`${rows} x ${vocab}`, async () => {
        const before = Float32Array.from(normals(vocab, rows * vocab, 3));
        const adjustments = adjustmentsFor(rows * vocab, vocab).reverse();
        const entries = upload(gpu, "entries", [adjustments.length, 4], encode(adjustments), "u32");
        const logits = output(gpu, "logits", [rows, vocab], before);
        const after = (await runTwice(gpu, [adjustLogits(traits, { entries, logits })], { logits })).logits;
        const touched = new Set(adjustments.map(({ element }) => element));
        const untouched = [...before.keys()].filter((element) => !touched.has(element));
        expect(untouched.filter((element) => after[element] !== before[element])).toEqual([]);
        const isBan = ({ addition }: Adjustment) => addition === FORBIDDEN_LOGIT;
        const bans = adjustments.filter(isBan).map(({ element }) => after[element]);
        expect(bans.filter((logit) => logit !== FORBIDDEN_LOGIT)).toEqual([]);
        const others = adjustments.filter((adjustment) => !isBan(adjustment));
        assertClose(
          others.map(({ element }) => after[element]),
          others.map((adjustment) => reference(before[adjustment.element], adjustment)),
          tolerance,
        );
      });
    }

    test("the sign after the bias decides between division and product, and bans need no arithmetic", async () => {
      const before = Float32Array.of(1, 1, -1, -1, 0, NaN, -Infinity, 5);
      const adjustments: Adjustment[] = [
        { element: 0, bias: -3, penalty: 2 },
        { element: 1, bias: 3, penalty: 2, addition: 0.5 },
        { element: 2, bias: 3, penalty: 2 },
        { element: 3, bias: -3, penalty: 2 },
        { element: 4, penalty: 2, addition: -0 },
        { element: 5, penalty: 2, addition: FORBIDDEN_LOGIT },
        { element: 6, bias: 100, addition: FORBIDDEN_LOGIT },
        { element: 8, addition: 1 },
        { element: 0xffffffff, addition: 1 },
      ];
      const entries = upload(gpu, "entries", [adjustments.length, 4], encode(adjustments), "u32");
      const logits = output(gpu, "logits", [2, 4], before);
      const after = (await runTwice(gpu, [adjustLogits(traits, { entries, logits })], { logits })).logits;
      expect([...after]).toEqual([-4, 2.5, 1, -8, 0, FORBIDDEN_LOGIT, FORBIDDEN_LOGIT, 5]);
    });

    test("a forbidden token is drawn at no temperature", async () => {
      const vocab = 101;
      const settings = [0, 0.2, 1, 100].flatMap((temperature, index): SampleSettings[] => [
        { temperature, topK: 0, topP: 1, minP: 0, seed: BigInt(index), step: 1 },
        { temperature, topK: 7, topP: 0.9, minP: 0.01, seed: BigInt(index), step: 2 },
      ]);
      const rows = settings.length;
      const words = new Uint32Array(rows * SAMPLE_SETTINGS_WORDS);
      settings.forEach((one, row) => writeSampleSettings(words, row, one));
      const bans = settings.flatMap((_, row) =>
        Array.from({ length: vocab }, (_, token) => token)
          .filter((token) => token !== 60 + row)
          .map((token) => ({ element: row * vocab + token, addition: FORBIDDEN_LOGIT })),
      );
      const logits = output(gpu, "logits", [rows, vocab], normals(3, rows * vocab, 5));
      const sampled = output(gpu, "sampled", [rows], new Uint32Array(rows), "u32");
      const dispatches = [
        adjustLogits(traits, {
          entries: upload(gpu, "entries", [bans.length, 4], encode(bans), "u32"),
          logits,
        }),
        sample(gpu.traits, {
          logits,
          settings: upload(gpu, "settings", [rows, SAMPLE_SETTINGS_WORDS], words, "u32"),
          sampled,
        }),
      ];
      const drawn = (await runTwice(gpu, dispatches, { sampled, logits })).sampled;
      expect([...drawn]).toEqual(settings.map((_, row) => 60 + row));
    });
  });
}

describe("adjustment data", () => {
  test("rows of entries are placed one behind the other", () => {
    const data = new Uint32Array(4 * ADJUSTMENT_WORDS);
    const one = encode([{ element: 5, bias: 1 }]);
    const two = encode([
      { element: 0, penalty: 2 },
      { element: 9, addition: -1 },
    ]);
    placeAdjustments(data, 0, one, { row: 0, vocab: 10 });
    placeAdjustments(data, 1, two, { row: 3, vocab: 10 });
    const wanted = [
      { element: 5, bias: 1 },
      { element: 30, penalty: 2 },
      { element: 39, addition: -1 },
    ];
    expect([...data]).toEqual([...encode(wanted), 0, 0, 0, 0]);
  });

  test("no entries make no workgroups, and a wrong shape is named", () => {
    const logits = upload(gpu, "logits", [1, 8], new Float32Array(8));
    const entries = upload(gpu, "entries", [0, 4], [], "u32");
    expect(adjustLogits(gpu.traits, { entries, logits }).workgroups).toEqual([0, 1, 1]);
    const narrow = upload(gpu, "narrow", [2, 3], new Uint32Array(6), "u32");
    expect(() => adjustLogits(gpu.traits, { entries: narrow, logits })).toThrow(
      "Cannot run adjust-logits: expected entries to have 4 = 4, got 3 (narrow [2, 3])",
    );
  });
});
