/** Random values of a decoder layer's pass of one token, and the pass in float64, for tests of `decodePass`. */
import type { Gpu } from "../../src/gpu/gpu.ts";
import type { FusedNorm } from "../../src/gpu/kernels/fused-linear.ts";
import type { Activation } from "../../src/gpu/kernels/gated-activation.ts";
import { type Dtype, rowsFrom, type Tensor } from "../../src/gpu/tensor.ts";
import { normals, rounded, upload } from "./gpu.ts";
import { randomWeight, type RandomWeight } from "./random-weight.ts";

export interface PassCase {
  hidden: number;
  intermediate: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  rotaryDim: number;
  dtype: Dtype;
  kvDtype: Dtype;
  /** Of the token; the cache holds what is before it. */
  position: number;
  blockSize: number;
  scale: number;
  prefix: number;
  gated?: boolean;
  norm?: "weight" | "plus-one";
  activation?: Activation;
  window?: number;
  softCap?: number;
}

const eps = 1e-5;

export interface PassValues {
  x: Float64Array;
  weights: Record<"qkv" | "output" | "gateUp" | "down", RandomWeight>;
  /** What the norms multiply by, one after the other; `norms` are the same for the device. */
  factors: readonly [Float64Array, Float64Array];
  norms: readonly [FusedNorm, FusedNorm];
  /** [position + 1, rotaryDim]: cos | sin */
  table: Float64Array;
  /** [blocks, 2, blockSize, kvHeads * headDim], as the cache rounds them; NaN where nothing was written. */
  cache: Float64Array;
  blocks: number;
  blockTable: number[];
  slot: number;
}

export function passValues(gpu: Gpu, shape: PassCase): PassValues {
  const { hidden, intermediate, heads, kvHeads, headDim, rotaryDim, dtype, position, blockSize } = shape;
  const rows = ((shape.gated ? 2 : 1) * heads + 2 * kvHeads) * headDim;
  const matrix = (seed: number, outputs: number, inputs: number) =>
    randomWeight(gpu, [outputs, inputs], { seed, dtype });
  const blockCount = Math.floor(position / blockSize) + 1;
  // Backwards, and block 0 left out.
  const blockTable = Array.from({ length: blockCount }, (_, i) => blockCount - i);
  const slotOf = (key: number) => blockTable[Math.floor(key / blockSize)] * blockSize + (key % blockSize);
  const channels = kvHeads * headDim;
  const cache = new Float64Array((blockCount + 1) * 2 * blockSize * channels).fill(NaN);
  const past = [normals(11, position * channels), normals(12, position * channels)];
  for (let key = 0; key < position; key++) {
    past.forEach((values, part) => {
      const own = rounded(values.subarray(key * channels, (key + 1) * channels), shape.kvDtype);
      cache.set(own, placeOf(slotOf(key), part, blockSize) * channels);
    });
  }
  const normWeights = rounded(normals(13, 2 * hidden), "f32");
  return {
    x: rounded(normals(1, hidden), "f32"),
    weights: {
      qkv: matrix(2, rows, hidden),
      output: matrix(3, hidden, heads * headDim),
      gateUp: matrix(4, 2 * intermediate, hidden),
      down: matrix(5, hidden, intermediate),
    },
    ...normsOf(gpu, shape, normWeights),
    table: rotaryTable(position + 1, rotaryDim),
    cache,
    blocks: blockCount + 1,
    blockTable,
    slot: slotOf(position),
  };
}

function normsOf(gpu: Gpu, { hidden, norm }: PassCase, weights: Float64Array) {
  const halves = [weights.subarray(0, hidden), weights.subarray(hidden)];
  const one = norm === "plus-one" ? 1 : 0;
  const factors = halves.map((half) => half.map((value) => (norm ? value + one : 1)));
  const whole = upload(gpu, "norms", [2 * hidden], weights);
  const views: Tensor[] = [{ ...whole, shape: [hidden], size: 4 * hidden }, rowsFrom(whole, hidden)];
  const norms = views.map((weight) => (norm ? { eps, weight, plusOne: one === 1 } : { eps }));
  return { factors: [factors[0], factors[1]] as const, norms: [norms[0], norms[1]] as const };
}

/** Row of the cache that has a slot's keys (part 0) or values (1). */
function placeOf(slot: number, part: number, blockSize: number): number {
  return (Math.floor(slot / blockSize) * 2 + part) * blockSize + (slot % blockSize);
}

function rotaryTable(positions: number, rotaryDim: number): Float64Array {
  const half = rotaryDim / 2;
  const table = Float64Array.from({ length: positions * rotaryDim }, (_, at) => {
    const [position, i] = [Math.floor(at / rotaryDim), at % rotaryDim];
    const angle = position * 100 ** (-(i % half) / half);
    return i < half ? Math.cos(angle) : Math.sin(angle);
  });
  return rounded(table, "f32");
}

/** x and the cache after the pass; the new key and value not rounded. */
export function passReference(shape: PassCase, values: PassValues): { x: Float64Array; kv: Float64Array } {
  const { hidden, heads, headDim, activation, intermediate } = shape;
  const { weights, factors } = values;
  const { attended, kv } = attention(shape, values, product(weights.qkv, normed(values.x, factors[0])));
  const projected = product(weights.output, attended);
  const stream = values.x.map((value, i) => value + projected[i]);
  const both = product(weights.gateUp, normed(stream, factors[1]));
  const act = activation === "gelu-tanh" ? gelu : silu;
  const activated = both.subarray(0, intermediate).map((gate, i) => act(gate) * both[intermediate + i]);
  const result = product(weights.down, activated);
  if (projected.length !== hidden || attended.length !== heads * headDim) throw new Error("shapes");
  return { x: stream.map((value, i) => value + result[i]), kv };
}

function attention(shape: PassCase, values: PassValues, projected: Float64Array) {
  const { heads, kvHeads, headDim, position, prefix, kvDtype, blockSize, gated, window = 0 } = shape;
  const queryAt = gated ? heads * headDim : 0;
  const keyAt = queryAt + heads * headDim;
  const channels = kvHeads * headDim;
  const kv = values.cache.slice();
  const turned = projected.slice();
  for (let head = 0; head < heads + kvHeads; head++) turn(shape, values, turned, queryAt + head * headDim);
  const place = (part: number) => placeOf(values.slot, part, blockSize) * channels;
  kv.set(rounded(turned.subarray(keyAt, keyAt + channels), kvDtype), place(0));
  kv.set(rounded(turned.subarray(keyAt + channels), kvDtype), place(1));
  const last = position < prefix ? Math.max(position, Math.min(prefix, position + 1) - 1) : position;
  const first = window > 0 ? Math.max(0, position - window + 1) : 0;
  const attended = new Float64Array(heads * headDim);
  for (let head = 0; head < heads; head++) {
    const column = Math.floor(head / (heads / kvHeads)) * headDim;
    const at = (key: number, part: number) => {
      const slot = values.blockTable[Math.floor(key / blockSize)] * blockSize + (key % blockSize);
      const start = placeOf(slot, part, blockSize) * channels + column;
      return kv.subarray(start, start + headDim);
    };
    const query = turned.subarray(queryAt + head * headDim, queryAt + (head + 1) * headDim);
    const keys = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    const scores = keys.map((key) => capped(shape, shape.scale * dot(query, at(key, 0))));
    const most = Math.max(...scores);
    const shares = scores.map((score) => Math.exp(score - most));
    const sum = shares.reduce((a, b) => a + b, 0);
    for (let c = 0; c < headDim; c++) {
      const n = head * headDim + c;
      const value = keys.reduce((all, key, i) => all + (shares[i] / sum) * at(key, 1)[c], 0);
      attended[n] = gated ? value / (1 + Math.exp(-projected[n])) : value;
    }
  }
  return { attended, kv };
}

function turn(
  { position, rotaryDim }: PassCase,
  { table }: PassValues,
  rows: Float64Array,
  at: number,
): void {
  const half = rotaryDim / 2;
  for (let i = 0; i < half; i++) {
    const [a, b] = [rows[at + i], rows[at + half + i]];
    const [cosine, sine] = [table[position * rotaryDim + i], table[position * rotaryDim + half + i]];
    rows[at + i] = a * cosine - b * sine;
    rows[at + half + i] = b * cosine + a * sine;
  }
}

function normed(x: Float64Array, factors: Float64Array): Float64Array {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps);
  return x.map((value, i) => value * scale * factors[i]);
}

function product({ tensor, values }: RandomWeight, x: Float64Array): Float64Array {
  const [rows, inputs] = tensor.shape;
  return Float64Array.from({ length: rows }, (_, n) => dot(values.subarray(n * inputs, (n + 1) * inputs), x));
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}

function capped({ softCap = 0 }: PassCase, score: number): number {
  return softCap === 0 ? score : softCap * Math.tanh(score / softCap);
}

function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

function gelu(x: number): number {
  return (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}
