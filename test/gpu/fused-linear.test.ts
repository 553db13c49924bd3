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
  skipWithoutGpu,
  testGpu,
  upload,
} from "../support/gpu.ts";
import { productTolerance, randomWeight } from "../support/random-weight.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);

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
/** The fewest that a team may have. */
const lanes = gpu.traits.subgroupMaxSize;

function valuesOf(shape: Case) {
  const { tokens, inputs, outputs, activation, dtype, group } = shape;
  const rows = activation ? 2 * outputs : outputs;
  return {
    x: rounded(normals(1, tokens * inputs), "f32"),
    weight: randomWeight(gpu, [rows, inputs], { seed: 2, dtype, group }),
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
      for (let k = 0; k < inputs; k++) sum += x[k] * values.weight.values[n * inputs + k];
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
  const { tokens, inputs, outputs, norm, activation } = shape;
  const rows = activation ? 2 * outputs : outputs;
  const weight = norm && norm !== "plain" ? upload(gpu, "norm", [inputs], values.norm) : undefined;
  return {
    x: upload(gpu, "x", [tokens, inputs], values.x),
    weight: values.weight.tensor,
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
  { tokens: 5, inputs: 392, outputs: 19, dtype: "bf16", activation: "silu" },
  { tokens: 8, inputs: 256, outputs: 130, dtype: "f16", norm: "plain", activation: "silu", accumulate: true },
  { tokens: 1, inputs: 288, outputs: 21, dtype: "i8", norm: "plain", bias: true },
  { tokens: 3, inputs: 320, outputs: 9, dtype: "i8", group: 64, activation: "silu" },
  { tokens: 1, inputs: 800, outputs: 30, dtype: "i4", accumulate: true },
  { tokens: 2, inputs: 192, outputs: 5, dtype: "i4", group: 64, norm: "weight" },
  { tokens: 1, inputs: 1568, outputs: 6, dtype: "f16", norm: "weight", teams: { count: 2, lanes, rows: 4 } }, // in chunks
  { tokens: 1, inputs: 520, outputs: 21, dtype: "f16", teams: { count: 2, lanes: 64, rows: 4 } },
];

const lacks = skipWithoutGpu(!gpu.traits.hasSubgroups);

describe("fused-linear (needs subgroups)", () => {
  for (const shape of cases) {
    const { tokens, inputs, outputs, ...rest } = shape;
    test.skipIf(lacks)(`${tokens} x ${inputs} -> ${outputs} ${JSON.stringify(rest)}`, async () => {
      const values = valuesOf(shape);
      assertClose(await run(shape, values), reference(shape, values), productTolerance(shape.dtype));
    });
  }

  test.skipIf(lacks)("neighbours do not change a token's result", async () => {
    const shape: Case = { tokens: 8, inputs: 72, outputs: 11, dtype: "bf16", norm: "plain" };
    const values = valuesOf(shape);
    const all = await run(shape, values);
    for (const tokens of [1, 2, 3]) {
      const first = { ...values, x: values.x.slice(0, tokens * shape.inputs) };
      expect(await run({ ...shape, tokens }, first)).toEqual(all.slice(0, tokens * shape.outputs));
    }
  });
});

describe("fused-linear refuses", () => {
  const shape: Case = { tokens: 2, inputs: 16, outputs: 6, dtype: "f32", norm: "weight", bias: true };
  const options = optionsOf(shape, valuesOf(shape));
  const cases: [string, Partial<FusedLinearOptions>][] = [
    ["expected weight to have 12 rows, got 6 (weight)", { activation: "silu" }],
    ["expected at most 8 tokens, got 9", tokensOf(9)],
    ["expected bias [6], got [5] (bias)", { bias: upload(gpu, "bias", [5], new Float32Array(5)) }],
    [
      "expected norm [16], got [8] (norm)",
      { norm: { eps, weight: upload(gpu, "norm", [8], new Float32Array(8)) } },
    ],
  ];
  for (const [message, change] of cases) {
    test(message, () => {
      expect(() => fusedLinear(gpu.traits, { ...options, ...change })).toThrow(
        `Cannot run fused-linear: ${message}`,
      );
    });
  }

  function tokensOf(count: number): Partial<FusedLinearOptions> {
    return { x: { ...options.x, shape: [count, 16] }, y: { ...options.y, shape: [count, 6] } };
  }
});
