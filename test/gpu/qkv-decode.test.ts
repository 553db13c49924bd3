import { describe, setDefaultTimeout, test } from "bun:test";
import { type QkvDecodeOptions, qkvDecode } from "../../src/gpu/kernels/qkv-decode.ts";
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

const tolerance = productTolerance("f32");
/** Rounding to the cache's format errs by up to half a unit in its last place, 2^-9 or 2^-12 of a value. */
const cacheTolerance: Partial<Record<Dtype, { relativeRms: number; worst: number }>> = {
  f32: tolerance,
  bf16: { relativeRms: 2 ** -9, worst: 2 ** -6 },
  f16: { relativeRms: 2 ** -12, worst: 2 ** -9 },
};

interface Case {
  tokens: number;
  inputs: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  rotaryDim: number;
  dtype: Dtype;
  kvDtype: Dtype;
  gated?: boolean;
  norm?: boolean;
  bias?: boolean;
}

const eps = 1e-5;
const [blocks, blockSize, positions] = [3, 4, 32];

/** Token t is at position 3t + 1, its slot far from its neighbours'; every fifth is outside the cache. */
function metaOf(t: number): [number, number, number, number] {
  const slot = t % 5 === 4 ? 0xffffffff : (t * 7 + 2) % (blocks * blockSize);
  return [3 * t + 1, slot, 0, 0];
}

function valuesOf({ tokens, inputs, heads, kvHeads, headDim, rotaryDim, dtype, gated }: Case) {
  const rows = ((gated ? 2 : 1) * heads + 2 * kvHeads) * headDim;
  return {
    rows,
    x: rounded(normals(1, tokens * inputs), "f32"),
    weight: randomWeight(gpu, [rows, inputs], { seed: 2, dtype }),
    norm: rounded(normals(3, inputs), "f32"),
    bias: rounded(normals(4, rows), "f32"),
    angles: normals(5, (positions * rotaryDim) / 2),
  };
}

type Values = ReturnType<typeof valuesOf>;

/** cos | sin in each row. */
function tableOf({ rotaryDim }: Case, { angles }: Values): Float64Array {
  const half = rotaryDim / 2;
  const table = Float64Array.from({ length: positions * rotaryDim }, (_, at) => {
    const [position, i] = [Math.floor(at / rotaryDim), at % rotaryDim];
    const angle = angles[position * half + (i % half)];
    return i < half ? Math.cos(angle) : Math.sin(angle);
  });
  return rounded(table, "f32");
}

/** The joint product of a token, its queries and keys turned. */
function row(shape: Case, values: Values, t: number): Float64Array {
  const { inputs, heads, kvHeads, headDim, rotaryDim, gated } = shape;
  const x = values.x.subarray(t * inputs, (t + 1) * inputs);
  const scale = 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / inputs + eps);
  const result = Float64Array.from({ length: values.rows }, (_, n) => {
    let sum = shape.bias ? values.bias[n] : 0;
    for (let k = 0; k < inputs; k++) {
      sum += x[k] * (shape.norm ? scale * values.norm[k] : 1) * values.weight.values[n * inputs + k];
    }
    return sum;
  });
  const table = tableOf(shape, values);
  const first = gated ? heads : 0;
  for (let head = first; head < first + heads + kvHeads; head++) {
    for (let i = 0; i < rotaryDim / 2; i++) {
      const at = head * headDim + i;
      const [a, b] = [result[at], result[at + rotaryDim / 2]];
      const cosine = table[metaOf(t)[0] * rotaryDim + i];
      const sine = table[metaOf(t)[0] * rotaryDim + rotaryDim / 2 + i];
      result[at] = a * cosine - b * sine;
      result[at + rotaryDim / 2] = b * cosine + a * sine;
    }
  }
  return result;
}

/** Columns of y: an i8 cache's keys and values stay there. */
function yWidth({ heads, kvHeads, headDim, kvDtype, gated }: Case): number {
  return ((gated ? 2 : 1) * heads + (kvDtype === "i8" ? 2 * kvHeads : 0)) * headDim;
}

function reference(shape: Case, values: Values) {
  const { tokens, kvHeads, headDim } = shape;
  const channels = kvHeads * headDim;
  const width = yWidth(shape);
  const y = new Float64Array(tokens * width);
  const kv = new Float64Array(blocks * 2 * blockSize * channels).fill(7);
  for (let t = 0; t < tokens; t++) {
    const products = row(shape, values, t);
    y.set(products.subarray(0, width), t * width);
    const slot = metaOf(t)[1];
    if (slot >= blocks * blockSize || shape.kvDtype === "i8") continue;
    for (const part of [0, 1]) {
      const place = (Math.floor(slot / blockSize) * 2 + part) * blockSize + (slot % blockSize);
      kv.set(products.subarray(width + part * channels, width + (part + 1) * channels), place * channels);
    }
  }
  return { y, kv };
}

async function check(shape: Case): Promise<void> {
  const { tokens, inputs, heads, kvHeads, headDim, rotaryDim, kvDtype, gated } = shape;
  const values = valuesOf(shape);
  const expected = reference(shape, values);
  const meta = Array.from({ length: tokens }, (_, t) => metaOf(t)).flat();
  const cache = new Float64Array(expected.kv.length).fill(7);
  const options: QkvDecodeOptions = {
    x: upload(gpu, "x", [tokens, inputs], values.x),
    weight: values.weight.tensor,
    norm: shape.norm ? { eps, weight: upload(gpu, "norm", [inputs], values.norm) } : undefined,
    bias: shape.bias ? upload(gpu, "bias", [values.rows], values.bias) : undefined,
    cosSin: rotaryDim ? upload(gpu, "cos-sin", [positions, rotaryDim], tableOf(shape, values)) : undefined,
    tokensMeta: upload(gpu, "tokens-meta", [tokens, 4], meta, "u32"),
    y: output(gpu, "y", [tokens, yWidth(shape)]),
    kv: output(gpu, "kv", [blocks, 2, blockSize, kvHeads * headDim], cache, kvDtype),
    heads,
    kvHeads,
    headDim,
    gated,
  };
  const { y, kv } = await runTwice(gpu, [qkvDecode(gpu.traits, options)], { y: options.y, kv: options.kv });
  assertClose(y, expected.y, productTolerance(shape.dtype));
  const untouched = expected.kv.map((value, at) => (value === 7 ? kv[at] : 7));
  assertClose(untouched, new Float64Array(kv.length).fill(7), { relativeRms: 0, worst: 0 });
  assertClose(kv, expected.kv, cacheTolerance[kvDtype] ?? tolerance);
}

const base: Case = {
  tokens: 1,
  inputs: 64,
  heads: 2,
  kvHeads: 2,
  headDim: 16,
  rotaryDim: 16,
  dtype: "f32",
  kvDtype: "f32",
};
const cases: Record<string, Partial<Case>> = {
  "gated, f16 cache": { gated: true, kvDtype: "f16", dtype: "f16", norm: true },
  "six tokens, grouped heads, bf16 cache": {
    tokens: 6,
    heads: 4,
    kvHeads: 1,
    kvDtype: "bf16",
    dtype: "bf16",
    bias: true,
  },
  "partial rotary, f32 cache": { tokens: 3, headDim: 20, rotaryDim: 8, norm: true, bias: true },
  "4 bits": { dtype: "i4", kvDtype: "f16", norm: true },
  "i8 cache, to be stored by another": { tokens: 2, gated: true, kvDtype: "i8", heads: 4 },
  "no rotary": { tokens: 2, rotaryDim: 0, kvDtype: "f16", inputs: 264 },
};

const lacks = skipWithoutGpu(!gpu.traits.hasSubgroups);

describe("qkv-decode (needs subgroups)", () => {
  for (const [name, change] of Object.entries(cases)) {
    test.skipIf(lacks)(name, () => check({ ...base, ...change }));
  }
});
