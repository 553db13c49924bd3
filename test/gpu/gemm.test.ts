import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Activation } from "../../src/gpu/kernels/gated-activation.ts";
import { gemm, type GemmOptions, suitsGemm } from "../../src/gpu/kernels/gemm.ts";
import {
  chooseTile,
  gemmShares,
  type GemmTile,
  tileConsts,
  triedTiles,
} from "../../src/gpu/kernels/gemm-tiles.ts";
import type { Dtype } from "../../src/gpu/tensor.ts";
import {
  assertClose,
  normals,
  output,
  rounded,
  runTwice,
  skipWithoutGpu,
  testGpu,
  uniforms,
  upload,
  uploadQuantized,
} from "../support/gpu.ts";

setDefaultTimeout(120_000);

const gpu = await testGpu();
const traits = { ...gpu.traits, hasSubgroupMatrix: true };

/**
 * Products of f16 are exact in f32. A matrix unit adds 16 of them to a sum at a time and cuts off rather than rounds:
 * up to 2^-22 of the sum each time, here at most 100 times, and all in one direction.
 */
const tolerance = { relativeRms: 2.5e-5, worst: 1e-4 };
/** What rounding to f16 adds: 2^-11 of a value, of which none is beyond 16 times the mean. */
const f16Tolerance = { relativeRms: 2 ** -11, worst: 16 * 2 ** -11 };

interface Case {
  tokens: number;
  inputs: number;
  outputs: number;
  dtype?: Dtype;
  bias?: boolean;
  accumulate?: boolean;
  activation?: Activation;
  shares?: number;
  /** Of the weights, with so many inputs to a scale; f16 if left out. */
  quantized?: { dtype: "i8" | "i4"; group: 32 | 64 };
}

interface Operands {
  x: Float64Array;
  /** What the weights are worth in f16, and of quantised ones what they are stored as. */
  weight: Float64Array;
  bias: Float64Array;
  before: Float64Array;
  stored?: { values: Int8Array; scales: Float64Array; dtype: "i8" | "i4" };
}

/** Every integer of the format, and scales of either sign. */
function stored(count: number, { dtype, group }: NonNullable<Case["quantized"]>, size: number) {
  const [least, kinds] = dtype === "i8" ? [-128, 256] : [-8, 16];
  const random = uniforms(2);
  const values = Int8Array.from({ length: count }, () => least + Math.floor(random() * kinds));
  const scales = rounded(normals(5, count / group, size / kinds), "f16");
  const worth = Float64Array.from(values, (value, i) => value * scales[Math.floor(i / group)]);
  return { values, scales, dtype, worth };
}

function operands({ tokens, inputs, outputs, activation, quantized }: Case): Operands {
  const count = (activation ? 2 * outputs : outputs) * inputs;
  const size = inputs ** -0.5;
  const packed = quantized && stored(count, quantized, size);
  return {
    stored: packed,
    x: rounded(normals(1, tokens * inputs), "f16"),
    weight: rounded(packed?.worth ?? normals(2, count, size), "f16"),
    bias: rounded(normals(3, outputs), "f32"),
    before: rounded(normals(4, tokens * outputs), "f32"),
  };
}

function activated(kind: Activation, gate: number): number {
  if (kind === "silu") return gate / (1 + Math.exp(-gate));
  return 0.5 * gate * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (gate + 0.044715 * gate ** 3)));
}

/** [shares, tokens, outputs] */
function reference(one: Case, { x, weight, bias, before }: Operands): Float64Array {
  const { tokens, inputs, outputs, activation, shares = 1 } = one;
  const width = inputs / shares;
  const product = (t: number, n: number, share: number) => {
    let sum = 0;
    for (let k = share * width; k < (share + 1) * width; k++)
      sum += x[t * inputs + k] * weight[n * inputs + k];
    return sum;
  };
  const y = new Float64Array(shares * tokens * outputs);
  for (let i = 0; i < y.length; i++) {
    const [share, t, n] = [Math.floor(i / (tokens * outputs)), Math.floor(i / outputs) % tokens, i % outputs];
    y[i] = product(t, n, share);
    if (activation) y[i] = activated(activation, y[i]) * product(t, outputs + n, share);
    if (one.bias) y[i] += bias[n];
    if (one.accumulate) y[i] += before[i];
  }
  return y;
}

async function run(on: typeof traits, one: Case, values: Operands, tile?: GemmTile): Promise<Float32Array> {
  const { tokens, inputs, outputs, dtype = "f32", accumulate, activation, shares = 1 } = one;
  const rows = activation ? 2 * outputs : outputs;
  const x = upload(gpu, "x", [tokens, inputs], values.x, "f16");
  const shape = [rows, inputs];
  const weight = values.stored
    ? uploadQuantized(gpu, "weight", shape, values.stored)
    : upload(gpu, "weight", shape, values.weight, "f16");
  const bias = one.bias ? upload(gpu, "bias", [outputs], values.bias) : undefined;
  const y = output(gpu, "y", [shares * tokens, outputs], accumulate ? values.before : undefined, dtype);
  const dispatch = gemm(on, { x, weight, y, bias, accumulate, activation, shares }, tile);
  return (await runTwice(gpu, [dispatch], { y })).y;
}

const cases: Case[] = [
  ...[1, 9, 16, 17, 33, 64, 65, 130].map((tokens) => ({ tokens, inputs: 256, outputs: 144 })),
  { tokens: 40, inputs: 32, outputs: 16 },
  { tokens: 70, inputs: 160, outputs: 48, dtype: "f16" },
  { tokens: 20, inputs: 1536, outputs: 96, bias: true },
  { tokens: 300, inputs: 128, outputs: 272, bias: true, dtype: "f16" },
  { tokens: 12, inputs: 512, outputs: 80, accumulate: true },
  { tokens: 129, inputs: 64, outputs: 80, accumulate: true, bias: true },
  { tokens: 30, inputs: 512, outputs: 96, activation: "silu", dtype: "f16" },
  { tokens: 150, inputs: 96, outputs: 40, activation: "gelu-tanh" },
  { tokens: 24, inputs: 256, outputs: 144, quantized: { dtype: "i8", group: 32 } },
  { tokens: 130, inputs: 192, outputs: 48, quantized: { dtype: "i8", group: 64 } },
  { tokens: 140, inputs: 96, outputs: 80, quantized: { dtype: "i4", group: 32 } },
  { tokens: 17, inputs: 256, outputs: 32, quantized: { dtype: "i4", group: 64 }, activation: "silu" },
  { tokens: 18, inputs: 1024, outputs: 64, shares: 4 },
  { tokens: 90, inputs: 256, outputs: 144, shares: 2 },
  { tokens: 2048, inputs: 64, outputs: 2064 }, // bands of tiles
  { tokens: 1024, inputs: 128, outputs: 1536, accumulate: true },
  { tokens: 256, inputs: 64, outputs: 6144 },
  { tokens: 1000, inputs: 64, outputs: 1024, activation: "silu" },
  { tokens: 16, inputs: 1536, outputs: 3072 }, // wide tiles of few tokens
  { tokens: 31, inputs: 384, outputs: 3072 },
  { tokens: 50, inputs: 256, outputs: 6144 },
  { tokens: 63, inputs: 256, outputs: 272, activation: "gelu-tanh" },
];

const lacks = skipWithoutGpu(!gpu.traits.hasSubgroupMatrix);

describe("gemm (needs a GPU with 16 x 16 x 16 matrix units)", () => {
  for (const one of cases) {
    const { tokens, inputs, outputs, ...rest } = one;
    test.skipIf(lacks)(`${tokens} x ${outputs} x ${inputs} ${JSON.stringify(rest)}`, async () => {
      const values = operands(one);
      const isHalf = one.dtype === "f16";
      assertClose(await run(traits, one, values), reference(one, values), isHalf ? f16Tolerance : tolerance);
    });
  }

  const forAllTiles: Case[] = [
    { tokens: 300, inputs: 128, outputs: 272, accumulate: true },
    { tokens: 270, inputs: 192, outputs: 144, activation: "silu" },
    { tokens: 129, inputs: 96, outputs: 528, bias: true }, // an odd number of steps
    { tokens: 130, inputs: 320, outputs: 272, quantized: { dtype: "i8", group: 64 } },
    { tokens: 200, inputs: 64, outputs: 400, quantized: { dtype: "i4", group: 32 } },
  ];
  for (const one of forAllTiles) {
    test.skipIf(lacks)(`the same bits in all tiles for many tokens: ${JSON.stringify(one)}`, async () => {
      const { tokens, inputs, outputs, activation } = one;
      const rows = activation ? 2 * outputs : outputs;
      const values = operands(one);
      const results: Float32Array[] = [];
      for (const tile of triedTiles(traits, { tokens, inputs, rows, isGated: activation !== undefined }))
        results.push(await run(traits, one, values, tile));
      assertClose(results[0], reference(one, values), tolerance);
      for (const other of results.slice(1)) expect(other).toEqual(results[0]);
    });
  }

  test.skipIf(lacks)("deterministic: a token has the same bits in batches of any size", async () => {
    const on = { ...traits, deterministic: true };
    const one: Case = { tokens: 200, inputs: 512, outputs: 80 };
    const values = operands(one);
    const whole = await run(on, one, values);
    for (const tokens of [1, 16, 33, 100]) {
      const part = { ...values, x: values.x.slice(0, tokens * one.inputs) };
      expect(await run(on, { ...one, tokens }, part)).toEqual(whole.slice(0, tokens * one.outputs));
    }
  });
});

test("a product of few rows is split into shares, but not where results must not depend on the batch", () => {
  const shape = { tokens: 16, inputs: 4096, rows: 256 };
  expect(gemmShares({ ...traits, deterministic: true }, shape)).toBe(1);
  expect(gemmShares(traits, shape)).toBeGreaterThan(1);
  expect(gemmShares(traits, { ...shape, rows: 65536 })).toBe(1);
});

/** What wgsl/gemm.wgsl makes of its consts: bytes of workgroup memory, lanes, and columns a step. */
function footprint(consts: Record<string, string>) {
  const of = (name: string) => Number.parseInt(consts[name], 10);
  const [tokens, rows] = [16 * of("PARTS_T") * of("ROWS_T"), 16 * of("PARTS_N") * of("ROWS_N")];
  const subgroups = of("PARTS_T") * of("PARTS_N") * of("SPLIT");
  const pieces = 2 * of("TURNS") * of("SPLIT");
  const staged = (of("HALVES") * tokens + rows) * (pieces + 1);
  const bytes = 16 * Math.max(staged, subgroups * 16 * (4 * of("ROWS_N") + 1));
  const staysWhole =
    of("X_ITEMS") * 32 * subgroups === tokens * pieces && of("W_ITEMS") * 32 * subgroups === rows * pieces;
  return { bytes, lanes: 32 * subgroups, columns: 8 * pieces, staysWhole };
}

test("a product in shares has the tiles that are wide", () => {
  const shape = { tokens: 16, inputs: 4096, rows: 1536 };
  const shares = gemmShares(traits, shape);
  expect(chooseTile(traits, shape).matrices).toEqual([1, 1]);
  expect(chooseTile(traits, { ...shape, shares }).matrices).toEqual([1, 2]);
  const x = upload(gpu, "x", [16, 4096], new Float32Array(16 * 4096), "f16");
  const weight = { ...x, name: "w", shape: [1536, 4096] };
  const y = { ...x, name: "y", dtype: "f32" as const, shape: [16 * shares, 1536] };
  const { replace, workgroups } = gemm(traits, { x, weight, y, shares });
  expect(replace).toMatchObject({ ROWS_T: "1u", ROWS_N: "2u" });
  expect(workgroups).toEqual([48, 1, shares]);
});

test("every tile that is chosen fits the workgroup, and the columns", () => {
  for (const deterministic of [false, true]) {
    for (const tokens of [1, 16, 17, 33, 65, 200, 4096]) {
      for (const inputs of [32, 96, 640, 1536, 2880, 4096]) {
        for (const rows of [16, 1536, 8192, 151_936]) {
          const isGated = rows === 8192;
          const chosen = chooseTile({ ...traits, deterministic }, { tokens, inputs, rows, isGated });
          const { bytes, lanes, columns, staysWhole } = footprint(tileConsts(chosen, inputs));
          expect(bytes).toBeLessThanOrEqual(48 * 1024);
          expect(lanes).toBeLessThanOrEqual(512);
          expect(inputs % columns).toBe(0);
          expect(staysWhole).toBe(true);
          if (isGated) expect(chosen.matrices[1] % 2).toBe(0);
          if (deterministic) expect(chosen.split).toBe(1);
        }
      }
    }
  }
});

test("suitsGemm tells what gemm can multiply", () => {
  const weight = upload(gpu, "w", [32, 64], new Float32Array(2048), "f16");
  expect(suitsGemm(traits, weight)).toBe(true);
  expect(suitsGemm({ ...traits, hasSubgroupMatrix: false }, weight)).toBe(false);
  expect(suitsGemm(traits, { ...weight, dtype: "bf16" })).toBe(false);
  expect(suitsGemm(traits, { ...weight, shape: [24, 64] })).toBe(false);
  expect(suitsGemm(traits, { ...weight, shape: [32, 48] })).toBe(false);
});

describe("gemm refuses", () => {
  const x = upload(gpu, "x", [3, 64], new Float32Array(192), "f16");
  const weight = upload(gpu, "w", [32, 64], new Float32Array(2048), "f16");
  const y = upload(gpu, "y", [3, 32], new Float32Array(96));
  const cases: [string, Partial<GemmOptions>][] = [
    ["expected x to be f16, got f32", { x: { ...x, dtype: "f32" } }],
    ["expected y to have 16 columns, got 32 (y)", { activation: "silu" }],
    ["expected y to have 6 rows, got 3 (y)", { shares: 2 }],
    ["expected the inputs of a share to be a multiple of 32, got 16", { shares: 4 }],
    ["expected y to be f32 where sums are added to it", { y: { ...y, dtype: "f16" }, accumulate: true }],
    ["expected bias f32 [32], got f32 [96]", { bias: { ...y, shape: [96] } }],
  ];
  for (const [message, change] of cases) {
    test(message, () => {
      expect(() => gemm(traits, { x, weight, y, ...change })).toThrow(`Cannot run gemm: ${message}`);
    });
  }
});
