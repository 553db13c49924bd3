/** Attention over a paged cache: one bidirectional prompt, and decoding. */
import type { Gpu } from "../src/gpu/gpu.ts";
import { attention } from "../src/gpu/kernels/attention.ts";
import { attentionPrefill, chooseQueryTile, queryTiles } from "../src/gpu/kernels/attention-prefill.ts";
import { createTensor, type Dtype, type Tensor, writeTensor } from "../src/gpu/tensor.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { hasMatrixUnits } from "./matrix-cases.ts";
import { randomTensor } from "./random-tensor.ts";

interface AttentionShape {
  /** Queries: the last so many positions of the context. */
  tokens: number;
  keys: number;
  heads: number;
  headDim: number;
  dtype: Dtype;
  /** On matrix units. */
  onMatrixUnits?: boolean;
}

const blockSize = 16;

function attentionCase(on: KernelCase["on"], shape: AttentionShape): KernelCase {
  const { tokens, keys, heads, headDim, dtype, onMatrixUnits } = shape;
  const kernel = onMatrixUnits ? "attention-prefill" : "attention";
  const kind = tokens === 1 ? "decode" : "prefix";
  const name = `${kernel} ${kind} ${tokens} of ${keys}, ${heads}x${headDim} ${dtype}`;
  const needs = onMatrixUnits ? hasMatrixUnits : undefined;
  return { name, on, needs, build: (gpu) => buildAttention(gpu, shape) };
}

function buildAttention(gpu: Gpu, shape: AttentionShape): BuiltCase {
  const { tokens, keys, heads, headDim, dtype, onMatrixUnits } = shape;
  const channels = heads * headDim;
  const blocks = Math.ceil(keys / blockSize);
  const q = randomTensor(gpu, { name: "q", shape: [tokens, channels], seed: 1 });
  const kv = randomTensor(gpu, { name: "kv", shape: [blocks, 2, blockSize, channels], dtype, seed: 2 });
  const output = createTensor(gpu.device, {
    name: "y",
    dtype: "f32",
    shape: [tokens, channels],
    readable: true,
  });
  const scale = headDim ** -0.5;
  const options = {
    q: q.tensor,
    kv: kv.tensor,
    ...metadata(gpu, { tokens, keys, blocks }),
    y: output,
    heads,
    kvHeads: heads,
    headDim,
    scale,
  };
  const dispatch = onMatrixUnits
    ? attentionPrefill({ ...options, ...tiles(gpu, { tokens, heads }) })
    : attention(gpu.traits, options);
  const stored = (part: 0 | 1, key: number, column: number) =>
    kv.at(((Math.floor(key / blockSize) * 2 + part) * blockSize + (key % blockSize)) * channels + column);
  return {
    dispatches: [dispatch],
    output,
    expected: (index) => {
      const [t, column] = [Math.floor(index / channels), index % channels];
      const head = column - (column % headDim);
      const scores = Float64Array.from({ length: keys }, (_, key) => {
        let sum = 0;
        for (let c = 0; c < headDim; c++) sum += q.at(t * channels + head + c) * stored(0, key, head + c);
        return sum * scale;
      });
      const most = scores.reduce((a, b) => Math.max(a, b));
      const weights = scores.map((score) => Math.exp(score - most));
      const total = weights.reduce((a, b) => a + b);
      return weights.reduce((sum, weight, key) => sum + (weight / total) * stored(1, key, column), 0);
    },
    tolerance: onMatrixUnits ? 1e-2 : 1e-3,
  };
}

function tiles(gpu: Gpu, { tokens, heads }: { tokens: number; heads: number }) {
  const runs = [{ firstToken: 0, tokens, sequence: 0 }];
  const tileTokens = chooseQueryTile(runs, heads);
  const data = queryTiles(runs, tileTokens);
  const tensor = createTensor(gpu.device, { name: "tiles", dtype: "u32", shape: [data.length / 4, 4] });
  writeTensor(gpu.device, tensor, data);
  return { tiles: tensor, tileTokens };
}

/** One sequence whose whole context is a bidirectional prefix; blocks in order. */
function metadata(gpu: Gpu, { tokens, keys, blocks }: { tokens: number; keys: number; blocks: number }) {
  const upload = (name: string, shape: number[], data: number[]): Tensor => {
    const tensor = createTensor(gpu.device, { name, dtype: "u32", shape });
    writeTensor(gpu.device, tensor, Uint32Array.from(data));
    return tensor;
  };
  const positions = Array.from({ length: tokens }, (_, t) => keys - tokens + t);
  return {
    tokensMeta: upload(
      "tokens-meta",
      [tokens, 4],
      positions.flatMap((position) => [position, position, 0, 0]),
    ),
    sequences: upload("sequences", [1, 4], [keys, keys, 0, 0]),
    blockTables: upload(
      "block-tables",
      [1, blocks],
      Array.from({ length: blocks }, (_, block) => block),
    ),
  };
}

export const attentionCases: readonly KernelCase[] = [
  attentionCase("cpu", { tokens: 1, keys: 48, heads: 4, headDim: 64, dtype: "f32" }),
  attentionCase("cpu", { tokens: 1, keys: 512, heads: 4, headDim: 64, dtype: "f32" }),
  attentionCase("cpu", { tokens: 1, keys: 512, heads: 4, headDim: 64, dtype: "bf16" }),
  attentionCase("cpu", { tokens: 32, keys: 32, heads: 4, headDim: 64, dtype: "f32" }),
  attentionCase("gpu", { tokens: 1, keys: 160, heads: 12, headDim: 128, dtype: "f16" }),
  attentionCase("gpu", { tokens: 1, keys: 1024, heads: 12, headDim: 128, dtype: "f16" }),
  attentionCase("gpu", { tokens: 1024, keys: 1024, heads: 12, headDim: 128, dtype: "f16" }),
  attentionCase("gpu", { tokens: 4096, keys: 4096, heads: 12, headDim: 128, dtype: "f16" }),
  ...[1024, 4096].map((tokens) =>
    attentionCase("gpu", {
      tokens,
      keys: tokens,
      heads: 12,
      headDim: 128,
      dtype: "f16",
      onMatrixUnits: true,
    }),
  ),
];
