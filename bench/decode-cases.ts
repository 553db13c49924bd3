/** The fused kernels of decoding one token, in the shapes of HRM-Text-1B: what a layer pass consists of. */
import type { Gpu } from "../src/gpu/gpu.ts";
import { attentionDecode, sharesRow } from "../src/gpu/kernels/attention-decode.ts";
import { combineLinear } from "../src/gpu/kernels/combine-linear.ts";
import { fusedLinear } from "../src/gpu/kernels/fused-linear.ts";
import { qkvDecode } from "../src/gpu/kernels/qkv-decode.ts";
import { createTensor, type Dtype, section, type Tensor, writeTensor } from "../src/gpu/tensor.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { randomTensor, type RandomTensor } from "./random-tensor.ts";

const hidden = 1536;
const heads = 12;
const headDim = 128;
const blockSize = 16;
const eps = 1e-6;
const rotationBytes = 256 * 2 ** 20; // more than the last cache of a large GPU

/** Copies of a matrix, so that a repetition does not find its operands in the cache; all have the same elements. */
function rotation(gpu: Gpu, shape: [number, number], dtype: Dtype): { first: RandomTensor; all: Tensor[] } {
  const make = () => randomTensor(gpu, { name: "weight", shape, dtype, seed: 2 });
  const first = make();
  const copies = Math.ceil(rotationBytes / first.tensor.size);
  return { first, all: [first.tensor, ...Array.from({ length: copies - 1 }, () => make().tensor)] };
}

function outputOf(gpu: Gpu, columns: number): Tensor {
  return createTensor(gpu.device, { name: "y", dtype: "f32", shape: [1, columns], readable: true });
}

function uploadU32(gpu: Gpu, name: string, shape: number[], data: number[]): Tensor {
  const tensor = createTensor(gpu.device, { name, dtype: "u32", shape });
  writeTensor(gpu.device, tensor, Uint32Array.from(data));
  return tensor;
}

/** Element n of the product with norm(x), all with the first `inputs` elements. */
function normedProduct(x: RandomTensor, weight: RandomTensor, inputs: number, n: number): number {
  let [sum, squares] = [0, 0];
  for (let k = 0; k < inputs; k++) {
    sum += x.at(k) * weight.at(n * inputs + k);
    squares += x.at(k) ** 2;
  }
  return sum / Math.sqrt(squares / inputs + eps);
}

function buildGateUp(gpu: Gpu): BuiltCase {
  const outputs = 4096;
  const x = randomTensor(gpu, { name: "x", shape: [1, hidden], seed: 1 });
  const { first, all } = rotation(gpu, [2 * outputs, hidden], "f16");
  const output = outputOf(gpu, outputs);
  const options = { x: x.tensor, y: output, norm: { eps }, activation: "silu" as const };
  return {
    dispatches: all.map((weight) => fusedLinear(gpu.traits, { ...options, weight })),
    output,
    expected: (n) => {
      const gate = normedProduct(x, first, hidden, n);
      return (gate / (1 + Math.exp(-gate))) * normedProduct(x, first, hidden, outputs + n);
    },
    tolerance: 5e-5,
  };
}

/** A product alone, or added to what y holds. */
function buildProduct(gpu: Gpu, [rows, inputs]: [number, number], accumulate = false): BuiltCase {
  const x = randomTensor(gpu, { name: "x", shape: [1, inputs], seed: 1 });
  const { first, all } = rotation(gpu, [rows, inputs], "f16");
  const output = outputOf(gpu, rows);
  return {
    dispatches: all.map((weight) => fusedLinear(gpu.traits, { x: x.tensor, weight, y: output, accumulate })),
    output,
    expected: (n) => {
      let sum = 0;
      for (let k = 0; k < inputs; k++) sum += x.at(k) * first.at(n * inputs + k);
      return sum;
    },
    tolerance: 5e-5,
  };
}

/** At position 0, where nothing turns. */
function buildQkv(gpu: Gpu): BuiltCase {
  const row = heads * headDim;
  const x = randomTensor(gpu, { name: "x", shape: [1, hidden], seed: 1 });
  const { first, all } = rotation(gpu, [4 * row, hidden], "f16");
  const output = outputOf(gpu, 2 * row);
  const cosSin = createTensor(gpu.device, { name: "cos-sin", dtype: "f32", shape: [1, headDim] });
  writeTensor(
    gpu.device,
    cosSin,
    Float32Array.from({ length: headDim }, (_, i) => (i < headDim / 2 ? 1 : 0)),
  );
  const options = {
    x: x.tensor,
    y: output,
    norm: { eps },
    cosSin,
    tokensMeta: uploadU32(gpu, "tokens-meta", [1, 4], [0, 5, 0, 0]),
    kv: createTensor(gpu.device, { name: "kv", dtype: "f16", shape: [1, 2, blockSize, row] }),
    heads,
    kvHeads: heads,
    headDim,
    gated: true,
  };
  return {
    dispatches: all.map((weight) => qkvDecode(gpu.traits, { ...options, weight })),
    output,
    expected: (n) => normedProduct(x, first, hidden, n),
    tolerance: 5e-5,
  };
}

/** Caches next to each other in a large tensor: a repetition reads another one. */
function caches(large: Tensor, keys: number): Tensor[] {
  const shape = [Math.ceil(keys / blockSize), 2, blockSize, heads * headDim];
  const step = 2 * shape.reduce((product, size) => product * size);
  return Array.from({ length: Math.floor(large.size / step) }, (_, i) =>
    section(large, { name: "kv", dtype: "f16", shape, offset: i * step }),
  );
}

/** Column `n` of attention's result over the first cache, whose blocks lie in order. */
function attended(q: RandomTensor, kv: RandomTensor, keys: number, n: number): number {
  const row = heads * headDim;
  const head = n - (n % headDim);
  const stored = (part: number, key: number, column: number) =>
    kv.at(((Math.floor(key / blockSize) * 2 + part) * blockSize + (key % blockSize)) * row + column);
  const weights = Float64Array.from({ length: keys }, (_, key) => {
    let score = 0;
    for (let c = 0; c < headDim; c++) score += q.at(head + c) * stored(0, key, head + c);
    return score * headDim ** -0.5;
  });
  const most = weights.reduce((a, b) => Math.max(a, b));
  weights.forEach((score, key) => (weights[key] = Math.exp(score - most)));
  const total = weights.reduce((a, b) => a + b);
  return weights.reduce((sum, weight, key) => sum + (weight / total) * stored(1, key, n), 0);
}

function attentionOptions(gpu: Gpu, q: Tensor, keys: number) {
  const blocks = Math.ceil(keys / blockSize);
  const order = Array.from({ length: blocks }, (_, block) => block);
  return {
    q,
    tokensMeta: uploadU32(gpu, "tokens-meta", [1, 4], [keys - 1, 0, 0, 0]),
    sequences: uploadU32(gpu, "sequences", [1, 4], [0, keys, 0, 0]),
    blockTables: uploadU32(gpu, "block-tables", [1, blocks], order),
    heads,
    kvHeads: heads,
    headDim,
    scale: headDim ** -0.5,
  };
}

/** Undivided: the output is attention's result. */
function buildAttention(gpu: Gpu, keys: number): BuiltCase {
  const row = heads * headDim;
  const q = randomTensor(gpu, { name: "q", shape: [1, row], seed: 1 });
  const large = randomTensor(gpu, { name: "kv", shape: [rotationBytes / 2], dtype: "f16", seed: 2 });
  const output = outputOf(gpu, row);
  const options = attentionOptions(gpu, q.tensor, keys);
  return {
    dispatches: caches(large.tensor, keys).map((kv) =>
      attentionDecode(gpu.traits, { ...options, kv, y: output, splits: 1 }),
    ),
    output,
    expected: (n) => attended(q, large, keys, n),
    tolerance: 1e-3,
  };
}

/** Three of sixteen shares, as of a short context. */
function buildCombine(gpu: Gpu): BuiltCase {
  const [row, splits, taken] = [heads * headDim, 16, 3];
  const step = headDim + 4;
  const shares = createTensor(gpu.device, {
    name: "shares",
    dtype: "f32",
    shape: [1, sharesRow(heads, splits, headDim)],
  });
  // All shares of a head are the same, and of weight 1: the result is a third of their sum, the value itself.
  const data = Float32Array.from({ length: heads * splits * step }, (_, i) => {
    const [head, column] = [Math.floor(i / (splits * step)), i % step];
    return column < headDim ? Math.sin(head * headDim + column) : [0, 1, taken, 0][column - headDim];
  });
  writeTensor(gpu.device, shares, data);
  const { first, all } = rotation(gpu, [hidden, row], "f16");
  const output = outputOf(gpu, hidden);
  const options = { shares, splits, headDim, y: output };
  return {
    dispatches: all.map((weight) => combineLinear(gpu.traits, { ...options, weight })),
    output,
    expected: (n) => {
      let sum = 0;
      for (let k = 0; k < row; k++) sum += Math.sin(k) * first.at(n * row + k);
      return sum;
    },
    tolerance: 5e-5,
  };
}

function decodeCase(name: string, build: (gpu: Gpu) => BuiltCase): KernelCase {
  return { name, on: "gpu", build };
}

export const decodeCases: readonly KernelCase[] = [
  decodeCase("qkv-decode 1 token 6144x1536 f16", buildQkv),
  decodeCase("attention-decode 1 of 160, 12x128 f16", (gpu) => buildAttention(gpu, 160)),
  decodeCase("attention-decode 1 of 1024, 12x128 f16", (gpu) => buildAttention(gpu, 1024)),
  decodeCase("combine-linear 3 shares 1536x1536 f16", buildCombine),
  decodeCase("fused-linear 6144x1536 f16", (gpu) => buildProduct(gpu, [6144, hidden])),
  decodeCase("fused-linear 16384x8192 f16", (gpu) => buildProduct(gpu, [16_384, 8192])),
  decodeCase("fused-linear norm, silu 2x4096x1536 f16", buildGateUp),
  decodeCase("fused-linear residual 1536x4096 f16", (gpu) => buildProduct(gpu, [hidden, 4096], true)),
];
