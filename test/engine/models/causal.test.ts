import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { KvDtype } from "../../../src/engine/kv-cache/spec.ts";
import { mayUseMatrixUnits } from "../../../src/engine/layers/fusion.ts";
import { readVerifyCases } from "../../../src/engine/verify/cases.ts";
import { toleranceOf } from "../../../src/engine/verify/tolerance.ts";
import type { TestTensor } from "../../support/checkpoint.ts";
import { testGpu } from "../../support/gpu.ts";
import { shared } from "../../support/shared.ts";
import {
  expectSameBits,
  openTestModel,
  promptLogits,
  relativeRms,
  type TestModel,
  withChangedTensors,
} from "../../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const qwen3 = shared("reference/tiny-qwen3");
const [, , longest] = await readVerifyCases(qwen3, false);
const ids = longest.promptIds;
const reference = longest.promptLogits as Float32Array;
const causal = { prefixLength: 0 };
const rotaryFrequencies = "bf16"; // as the references were made

describe("formats", () => {
  // Sums and activations are float32 in every format: what verify asks of an exact run.
  const exact = 1e-4;
  // A product's relative error is at most that of its rounded factors, and errors of layers are independent: they add
  // up as squares.
  const layerCount = 3;

  test("the reference is long enough to tell", () => {
    expect(ids.length).toBeGreaterThan(16);
    expect(reference.length).toBe(ids.length * 320);
  });

  test("float32 weights give the bits of the bfloat16 ones they are", async () => {
    const stored = await openTestModel(qwen3, { rotaryFrequencies });
    const wide = await openTestModel(qwen3, { rotaryFrequencies, dtype: "f32" });
    const logits = await promptLogits(stored, ids, causal);
    expect(relativeRms(logits, reference)).toBeLessThan(exact);
    expectSameBits(await promptLogits(wide, ids, causal), logits);
  });

  test("float16 weights hold bfloat16 ones but for the smallest", async () => {
    const half = await openTestModel(qwen3, { rotaryFrequencies, dtype: "f16" });
    // On matrix units what goes into a product is rounded as well.
    const { traits } = await testGpu();
    const tolerance = mayUseMatrixUnits(traits) ? toleranceOf(["f16"]).relativeRms : exact;
    // Below 2^-14 a float16 is a multiple of 2^-24: at most 2^-25 off, where weights are about 2^-6 in size.
    expect(relativeRms(await promptLogits(half, ids, causal), reference)).toBeLessThan(tolerance);
  });

  test("weights rounded to bfloat16 are off by its rounding", async () => {
    const matricesPerLayer = 7;
    const finer = (tensors: TestTensor[]) =>
      tensors.map((tensor, seed) => ({ ...tensor, dtype: "F32", bytes: refined(tensor.bytes, seed) }));
    await withChangedTensors(qwen3, finer, async (dir) => {
      const exactly = await promptLogits(await openTestModel(dir), ids, causal);
      const rounded = await promptLogits(await openTestModel(dir, { dtype: "bf16" }), ids, causal);
      const error = relativeRms(rounded, exactly);
      expect(error).toBeGreaterThan(1e-5);
      expect(error).toBeLessThan(2 ** -8 * Math.sqrt(matricesPerLayer * layerCount));
    });
  });

  // Keys and values are two roundings a layer.
  test.each<[KvDtype, number]>([
    ["f16", 2 ** -11],
    ["bf16", 2 ** -8],
  ])("%s keys and values are off by their rounding", async (kvDtype, rounding) => {
    const model = await openTestModel(qwen3, { rotaryFrequencies, kvDtype });
    expect(model.kvSpecs.map(({ dtype }) => dtype)).toEqual([kvDtype, kvDtype, kvDtype]);
    const error = relativeRms(await promptLogits(model, ids, causal), reference);
    expect(error).toBeGreaterThan(rounding / 100);
    expect(error).toBeLessThan(rounding * Math.sqrt(2 * layerCount));
  });
});

describe("a prompt in pieces", () => {
  test.each(["tiny-qwen3", "tiny-mistral", "tiny-gemma3", "tiny-llama"])("%s", async (name) => {
    const model = await openTestModel(shared(`reference/${name}`));
    const whole = await promptLogits(model, ids, causal);
    expect(ids.length).toBe(33);
    // More than 8 tokens a step: the same kernels, the same order of sums.
    expectSameBits(await promptLogits(model, ids, { ...causal, cuts: [9, 15, 9] }), whole);
    const small = await promptLogits(model, ids, { ...causal, cuts: [8, 8, 8, 8, 1] });
    expect(relativeRms(small, whole)).toBeLessThan(1e-5);
  });
});

describe("KV specs", () => {
  const kinds = ({ kvSpecs }: TestModel) =>
    kvSpecs.map((spec) => (spec.kind === "sliding-window" ? spec.slidingWindow : spec.nonCausal));

  test("Mistral's layers all have its window", async () => {
    expect(kinds(await openTestModel(shared("reference/tiny-mistral")))).toEqual([16, 16, 16]);
  });

  test("Gemma 3's have it but every sixth, which is full and causal", async () => {
    const expected = [16, 16, 16, 16, 16, false, 16];
    expect(kinds(await openTestModel(shared("reference/tiny-gemma3")))).toEqual(expected);
  });

  test("Llama's are full and causal, of its KV heads", async () => {
    const { kvSpecs } = await openTestModel(shared("reference/tiny-llama"), { kvDtype: "f16" });
    const spec = {
      kind: "full-attention",
      nonCausal: false,
      blockSize: 8,
      kvHeads: 2,
      headDim: 16,
      dtype: "f16",
    };
    expect(kvSpecs).toEqual([spec, spec, spec] as never);
  });
});

/** bfloat16 bytes as float32 with more digits behind them than bfloat16 has. */
function refined(bytes: Uint8Array, seed: number): Uint8Array {
  const bits = new Uint16Array(bytes.slice().buffer);
  const fine = Uint32Array.from(
    bits,
    (value, index) => (value << 16) | ((index * 40503 + seed * 977) & 0xffff),
  );
  return new Uint8Array(fine.buffer);
}
