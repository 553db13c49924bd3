import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { GpuTraits } from "../../src/gpu/gpu.ts";
import { linear } from "../../src/gpu/kernels/linear.ts";
import { type Dtype, rows } from "../../src/gpu/tensor.ts";
import {
  assertClose,
  normals,
  output,
  rounded,
  runTwice,
  testGpu,
  uniforms,
  upload,
  uploadQuantized,
} from "../support/gpu.ts";

const gpu = await testGpu();
// With checks on, SwiftShader takes seconds to compile a kernel that has much workgroup memory: it zeroes word by word.
setDefaultTimeout(60_000);

/**
 * A chain of n additions in f32 rounds n times, each by at most 2^-24 of the partial sum, which is at most about as large
 * as the result. Chains here have at most 256 additions (linear-matmul; the others add vectors of eight or lanes first);
 * taken as independent, sqrt(256) * 2^-24 = 1e-6 of the result. Twice that for the whole, ten times more for one element.
 */
const tolerance = { relativeRms: 2e-6, worst: 2e-5 };

interface Case {
  tokens: number;
  inputs: number;
  outputs: number;
  dtype: Dtype;
  bias?: boolean;
  accumulate?: boolean;
  /** Inputs that share a scale, of i8 and i4; 32 by default. */
  group?: number;
}

interface Operands {
  x: Float64Array;
  /** What the weights are worth, and of quantised ones the integers and scales of which that is the product. */
  weight: Float64Array;
  bias: Float64Array;
  before: Float64Array;
  quantized?: { values: Int8Array; scales: Float64Array; dtype: "i8" | "i4" };
}

/** Every integer of the format, and scales of either sign: f16 ones whose products are floats without rounding. */
function quantizedWeight({ inputs, outputs, dtype, group = 32 }: Case) {
  if (dtype !== "i8" && dtype !== "i4") throw new Error(`${dtype} is not quantised`);
  const [least, count] = dtype === "i8" ? [-128, 256] : [-8, 16];
  const random = uniforms(2);
  const values = Int8Array.from({ length: outputs * inputs }, () => least + Math.floor(random() * count));
  const scales = rounded(normals(5, (outputs * inputs) / group, 2 / count), "f16");
  return {
    values,
    scales,
    dtype,
    weight: Float64Array.from(values, (v, i) => v * scales[Math.floor(i / group)]),
  };
}

function operands(shape: Case): Operands {
  const { tokens, inputs, outputs, dtype } = shape;
  const isQuantized = dtype === "i8" || dtype === "i4";
  const quantized = isQuantized ? quantizedWeight(shape) : undefined;
  return {
    quantized,
    x: rounded(normals(1, tokens * inputs), "f32"),
    weight: quantized?.weight ?? rounded(normals(2, outputs * inputs), dtype),
    bias: rounded(normals(3, outputs, 5), "f32"),
    before: rounded(normals(4, tokens * outputs, 5), "f32"),
  };
}

function reference(shape: Case, { x, weight, bias, before }: Operands): Float64Array {
  const { tokens, inputs, outputs } = shape;
  const y = new Float64Array(tokens * outputs);
  for (let t = 0; t < tokens; t++) {
    for (let n = 0; n < outputs; n++) {
      let sum = 0;
      for (let k = 0; k < inputs; k++) sum += x[t * inputs + k] * weight[n * inputs + k];
      if (shape.bias) sum += bias[n];
      if (shape.accumulate) sum += before[t * outputs + n];
      y[t * outputs + n] = sum;
    }
  }
  return y;
}

async function run(traits: GpuTraits, shape: Case, values: Operands): Promise<Float32Array> {
  const { tokens, inputs, outputs, dtype, accumulate } = shape;
  const x = upload(gpu, "x", [tokens, inputs], values.x);
  const { quantized } = values;
  const weight = quantized
    ? uploadQuantized(gpu, "weight", [outputs, inputs], quantized)
    : upload(gpu, "weight", [outputs, inputs], values.weight, dtype);
  const bias = shape.bias ? upload(gpu, "bias", [outputs], values.bias) : undefined;
  const y = output(gpu, "y", [tokens, outputs], accumulate ? values.before : undefined);
  return (await runTwice(gpu, [linear(traits, { x, weight, y, bias, accumulate })], { y })).y;
}

/** Names the file a case runs, so that the list of tests shows which variants were reached. */
function fileFor(traits: GpuTraits, tokens: number): string {
  if (traits.isCpu) return traits.hasSubgroups ? "linear-cpu-subgroup" : "linear-cpu";
  if (tokens > 8) return "linear-matmul";
  return traits.hasSubgroups ? "linear-matvec-subgroup" : "linear-matvec";
}

const gpuTraits = { ...gpu.traits, isCpu: false };
const hasSubgroupsOfFour = gpu.traits.subgroupMinSize === 4 && gpu.traits.subgroupMaxSize === 4;
const variants = [
  { ...gpu.traits, isCpu: true, hasSubgroups: false },
  ...(gpu.traits.hasSubgroups && hasSubgroupsOfFour ? [{ ...gpu.traits, isCpu: true }] : []),
  { ...gpuTraits, hasSubgroups: false },
  ...(gpu.traits.hasSubgroups ? [gpuTraits] : []),
];
const few: Case[] = [
  { tokens: 1, inputs: 256, outputs: 65, dtype: "bf16" },
  { tokens: 1, inputs: 8, outputs: 1, dtype: "f32", bias: true, accumulate: true },
  { tokens: 2, inputs: 136, outputs: 37, dtype: "f16", bias: true },
  { tokens: 3, inputs: 24, outputs: 7, dtype: "f32" },
  { tokens: 5, inputs: 776, outputs: 19, dtype: "bf16" },
  { tokens: 8, inputs: 64, outputs: 130, dtype: "f32", accumulate: true },
  { tokens: 1, inputs: 96, outputs: 65, dtype: "i8" },
  { tokens: 3, inputs: 320, outputs: 13, dtype: "i8", group: 64, bias: true },
  { tokens: 1, inputs: 32, outputs: 1, dtype: "i4", bias: true, accumulate: true },
  { tokens: 1, inputs: 800, outputs: 70, dtype: "i4" },
  { tokens: 4, inputs: 192, outputs: 21, dtype: "i4", group: 64 },
];
const many: Case[] = [
  { tokens: 21, inputs: 104, outputs: 67, dtype: "bf16" },
  { tokens: 70, inputs: 40, outputs: 129, dtype: "f16", bias: true, accumulate: true },
  { tokens: 9, inputs: 256, outputs: 33, dtype: "f32", bias: true },
  { tokens: 65, inputs: 320, outputs: 31, dtype: "i8", group: 64, bias: true },
  { tokens: 17, inputs: 96, outputs: 67, dtype: "i4", accumulate: true },
];

function describeCase({ tokens, inputs, outputs, dtype, bias, accumulate, group }: Case): string {
  const added = `${group ? ` in groups of ${group}` : ""}${bias ? " + bias" : ""}${accumulate ? " + y" : ""}`;
  return `${tokens} x ${inputs} -> ${outputs} ${dtype}${added}`;
}

describe("linear", () => {
  for (const traits of variants) {
    // linear-matmul is the same with and without subgroups.
    for (const shape of traits.hasSubgroups && !traits.isCpu ? few : [...few, ...many]) {
      test(`${fileFor(traits, shape.tokens)}: ${describeCase(shape)}`, async () => {
        const values = operands(shape);
        assertClose(await run(traits, shape, values), reference(shape, values), tolerance);
      });
    }

    test(`${fileFor(traits, 1)} and ${fileFor(traits, 99)}: neighbours do not change a token's result`, async () => {
      for (const [all, some] of [
        [8, 1],
        [7, 2],
        [8, 3],
        [33, 9],
      ]) {
        const shape: Case = { tokens: all, inputs: 72, outputs: 11, dtype: "bf16" };
        const values = operands(shape);
        const first = { ...values, x: values.x.subarray(0, some * shape.inputs) };
        const expected = (await run(traits, shape, values)).subarray(0, some * shape.outputs);
        expect([...(await run(traits, { ...shape, tokens: some }, first))]).toEqual([...expected]);
      }
    });
  }

  test("the large tile of linear-matmul", async () => {
    const shape: Case = { tokens: 130, inputs: 16, outputs: 133, dtype: "bf16" };
    const values = operands(shape);
    const x = upload(gpu, "x", [130, 16], values.x);
    const weight = upload(gpu, "weight", [133, 16], values.weight, "bf16");
    const y = output(gpu, "y", [130, 133]);
    const small = linear({ ...gpuTraits, hasSubgroups: false }, { x, weight, y });
    expect(small.replace).toEqual({ PER_LANE: "1" });
    const large = { ...small, replace: { PER_LANE: "2", STEP: "8" }, workgroups: [2, 2, 1] as const };
    assertClose((await runTwice(gpu, [large], { y })).y, reference(shape, values), tolerance);
  });

  test("takes the first rows of a larger x and leaves the rest of y alone", async () => {
    const shape: Case = { tokens: 2, inputs: 16, outputs: 5, dtype: "f32" };
    const values = operands(shape);
    const x = upload(
      gpu,
      "x",
      [4, 16],
      Float64Array.from({ length: 64 }, (_, i) => values.x[i] ?? NaN),
    );
    const weight = upload(gpu, "weight", [5, 16], values.weight);
    const y = output(gpu, "y", [4, 5], new Float32Array(20).fill(7));
    const dispatch = linear(gpu.traits, { x: rows(x, 2), weight, y: rows(y, 2) });
    const result = (await runTwice(gpu, [dispatch], { y })).y;
    assertClose(result.subarray(0, 10), reference(shape, values), tolerance);
    expect([...result.subarray(10)]).toEqual(new Array<number>(10).fill(7));
  });

  test("stays within 65535 workgroups a dimension for the largest vocabulary", () => {
    const tensor = { dtype: "f32" as const, buffer: { id: 0, gpu: {} as GPUBuffer }, offset: 0, size: 0 };
    const x = { ...tensor, name: "x", shape: [1, 8] };
    const weight = { ...tensor, name: "w", shape: [524_289, 8] };
    const y = { ...tensor, name: "y", shape: [1, 524_289] };
    for (const hasSubgroups of [true, false]) {
      const [across, down] = linear({ ...gpuTraits, hasSubgroups }, { x, weight, y }).workgroups;
      expect(Math.max(across, down)).toBeLessThanOrEqual(65535);
      expect(across * down).toBeGreaterThanOrEqual(524_289 / 8);
    }
  });

  test("refuses quantised weights without the scales they need", () => {
    const x = upload(gpu, "x", [1, 96], new Float32Array(96));
    const y = output(gpu, "y", [1, 2]);
    const values = new Int8Array(192);
    const refusal = (scales: number) => {
      const weight = uploadQuantized(gpu, "w", [2, 96], {
        values,
        scales: new Float32Array(scales),
        dtype: "i4",
      });
      return () => linear(gpu.traits, { x, weight, y });
    };
    expect(refusal(6)).not.toThrow();
    expect(refusal(2)).toThrow(
      "Cannot run linear: expected f16 scales [2, 96 / 32 or 64] with i4 weights, got f16 [2, 1] (w)",
    );
    const bare = upload(gpu, "w", [2, 96], values, "i8");
    expect(() => linear(gpu.traits, { x, weight: bare, y })).toThrow("with i8 weights, got none (w)");
  });

  test("names the tensor that does not fit", () => {
    const x = upload(gpu, "states", [2, 12], new Float32Array(24));
    const weight = upload(gpu, "w", [3, 12], new Float32Array(36));
    const y = upload(gpu, "y", [2, 3], new Float32Array(6));
    expect(() => linear(gpu.traits, { x, weight, y })).toThrow(
      "Cannot run linear: expected weight to have inputs in multiples of 8, got 12 (w)",
    );
    const narrow = upload(gpu, "narrow", [2, 8], new Float32Array(16));
    expect(() => linear(gpu.traits, { x: narrow, weight, y })).toThrow(
      "expected weight to have inputs = 8 as in x, got 12 (w [3, 12])",
    );
    const wide = upload(gpu, "wide", [3, 8], new Float32Array(24));
    const bias = upload(gpu, "b", [4], new Float32Array(4));
    expect(() => linear(gpu.traits, { x: narrow, weight: wide, y, bias })).toThrow(
      "Cannot run linear: expected bias [3], got [4] (b)",
    );
  });
});
