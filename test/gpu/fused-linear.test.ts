import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type FusedLinearOptions, fusedLinear } from "../../src/gpu/kernels/fused-linear.ts";
import type { Activation } from "../../src/gpu/kernels/gated-activation.ts";
import type { Teams } from "../../src/gpu/kernels/teams.ts";
import type { Dtype } from "../../src/gpu/tensor.ts";
import {
  assertClose,
  normals,
  output,
  rounded,
  runTwice,
  testGpu,
  upload,
  uploadQuantized,
} from "../support/gpu.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);

// As for linear: lanes add vectors of eight, then a few dozen lane sums. The norm's factor errs by a few 2^-24 more.
const tolerance = { relativeRms: 2e-6, worst: 2e-5 };

interface Case {
  tokens: number;
  inputs: number;
  outputs: number;
  dtype: Dtype;
  norm?: "plain" | "weight" | "plus-one";
  activation?: Activation;
  bias?: boolean;
  accumulate?: boolean;
  teams?: Teams;
  /** Inputs that share a scale, of i8 and i4. */
  group?: number;
}

const eps = 1e-5;

/** Integers of the whole range, scales of either sign, and what they are worth. */
function quantizedWeight(dtype: "i8" | "i4", count: number, group: number) {
  const range = dtype === "i8" ? 256 : 16;
  const values = Int8Array.from({ length: count }, (_, i) => ((i * 37 + (i >> 5)) % range) - range / 2);
  const scales = rounded(normals(6, count / group, 1 / range), "f16");
  const weight = Float64Array.from(values, (value, i) => value * scales[Math.floor(i / group)]);
  return { weight, quantized: { values, scales, dtype } };
}

function weightOf({ inputs, dtype, group = 32 }: Case, rows: number) {
  if (dtype === "i8" || dtype === "i4") return quantizedWeight(dtype, rows * inputs, group);
  return { weight: rounded(normals(2, rows * inputs, inputs ** -0.5), dtype), quantized: undefined };
}

function valuesOf(shape: Case) {
  const { tokens, inputs, outputs, activation } = shape;
  const rows = activation ? 2 * outputs : outputs;
  return {
    x: rounded(normals(1, tokens * inputs), "f32"),
    ...weightOf(shape, rows),
    norm: rounded(normals(3, inputs), "f32"),
    bias: rounded(normals(4, rows), "f32"),
    before: rounded(normals(5, tokens * outputs), "f32"),
  };
}

type Values = ReturnType<typeof valuesOf>;

function normed({ inputs, norm }: Case, values: Values, t: number): Float64Array {
  const x = values.x.slice(t * inputs, (t + 1) * inputs);
  if (!norm) return x;
  const scale = 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / inputs + eps);
  const one = norm === "plus-one" ? 1 : 0;
  return x.map((value, k) => value * scale * (norm === "plain" ? 1 : one + values.norm[k]));
}

function activate(kind: Activation, gate: number): number {
  if (kind === "silu") return gate / (1 + Math.exp(-gate));
  return 0.5 * gate * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (gate + 0.044715 * gate ** 3)));
}

function reference(shape: Case, values: Values): Float64Array {
  const { tokens, inputs, outputs, activation } = shape;
  const y = new Float64Array(tokens * outputs);
  for (let t = 0; t < tokens; t++) {
    const x = normed(shape, values, t);
    const product = (n: number) => {
      let sum = shape.bias ? values.bias[n] : 0;
      for (let k = 0; k < inputs; k++) sum += x[k] * values.weight[n * inputs + k];
      return sum;
    };
    for (let n = 0; n < outputs; n++) {
      const value = activation ? activate(activation, product(n)) * product(outputs + n) : product(n);
      y[t * outputs + n] = value + (shape.accumulate ? values.before[t * outputs + n] : 0);
    }
  }
  return y;
}

function optionsOf(shape: Case, values: Values): FusedLinearOptions {
  const { tokens, inputs, outputs, dtype, norm, activation } = shape;
  const rows = activation ? 2 * outputs : outputs;
  const weight = norm && norm !== "plain" ? upload(gpu, "norm", [inputs], values.norm) : undefined;
  return {
    x: upload(gpu, "x", [tokens, inputs], values.x),
    weight: values.quantized
      ? uploadQuantized(gpu, "weight", [rows, inputs], values.quantized)
      : upload(gpu, "weight", [rows, inputs], values.weight, dtype),
    y: output(gpu, "y", [tokens, outputs], shape.accumulate ? values.before : undefined),
    norm: norm && { eps, weight, plusOne: norm === "plus-one" },
    bias: shape.bias ? upload(gpu, "bias", [rows], values.bias) : undefined,
    accumulate: shape.accumulate,
    activation,
  };
}

async function run(shape: Case, values: Values): Promise<Float32Array> {
  const options = optionsOf(shape, values);
  return (await runTwice(gpu, [fusedLinear(gpu.traits, options, shape.teams)], { y: options.y })).y;
}

const cases: Case[] = [
  { tokens: 1, inputs: 256, outputs: 65, dtype: "bf16", norm: "plain" },
  { tokens: 1, inputs: 8, outputs: 1, dtype: "f32", bias: true, accumulate: true },
  { tokens: 2, inputs: 136, outputs: 37, dtype: "f16", bias: true, norm: "weight" },
  { tokens: 3, inputs: 24, outputs: 7, dtype: "f32", norm: "plus-one", activation: "gelu-tanh", bias: true },
  { tokens: 5, inputs: 776, outputs: 19, dtype: "bf16", activation: "silu" },
  { tokens: 8, inputs: 512, outputs: 130, dtype: "f16", norm: "plain", activation: "silu", accumulate: true },
  { tokens: 1, inputs: 288, outputs: 21, dtype: "i8", norm: "plain", bias: true },
  { tokens: 3, inputs: 320, outputs: 9, dtype: "i8", group: 64, activation: "silu" },
  { tokens: 1, inputs: 800, outputs: 30, dtype: "i4", accumulate: true },
  { tokens: 2, inputs: 192, outputs: 5, dtype: "i4", group: 64, norm: "weight" },
  { tokens: 1, inputs: 520, outputs: 21, dtype: "f16", teams: { count: 2, lanes: 64, rows: 4 } },
];

describe("fused-linear", () => {
  for (const shape of cases) {
    const { tokens, inputs, outputs, teams, ...rest } = shape;
    test(`${tokens} x ${inputs} -> ${outputs} ${Object.entries(rest).join(" ")}${teams ? " other teams" : ""}`, async () => {
      const values = valuesOf(shape);
      assertClose(await run(shape, values), reference(shape, values), tolerance);
    });
  }

  test("neighbours do not change a token's result", async () => {
    const shape: Case = { tokens: 8, inputs: 72, outputs: 11, dtype: "bf16", norm: "plain" };
    const values = valuesOf(shape);
    const all = await run(shape, values);
    for (const tokens of [1, 2, 3]) {
      const first = { ...values, x: values.x.slice(0, tokens * shape.inputs) };
      expect(await run({ ...shape, tokens }, first)).toEqual(all.slice(0, tokens * shape.outputs));
    }
  });
});
