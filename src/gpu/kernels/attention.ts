import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { elementCount, flatten, type Tensor } from "../tensor.ts";
import { checkMultiple } from "./token-grid.ts";

export const attentionSpec: KernelSpec = {
  name: "attention",
  files: ["attention", "attention-cpu"],
  params: {
    tokens: "u32",
    heads: "u32",
    kv_heads: "u32",
    head_dim: "u32",
    q_row: "u32",
    q_offset: "u32",
    block_size: "u32",
    blocks_per_sequence: "u32",
    window: "u32",
    scale: "f32",
    soft_cap: "f32",
  },
  tensors: {
    q: tensor("read", "f32", "tokens q_row"),
    kv: tensor("read", "cache", "blocks 2 block_size kv_channels"),
    kv_scales: tensor("read", "f32", "scales"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    sequences: tensor("read", "u32", "sequences 4"),
    block_tables: tensor("read", "u32", "sequences blocks_per_sequence"),
    y: tensor("read_write", "f32", "tokens y_row"),
  },
};

export interface AttentionOptions {
  q: Tensor;
  /** First column of the queries in a row of `q`, a multiple of 4. Default 0. */
  qOffset?: number;
  /** The cache of one layer pass, written by `kvWrite` before. Of i8 with scales f32 [blocks, 2, block size, kvHeads]. */
  kv: Tensor;
  /** [tokens, 4]: position in the sequence, slot, index of the sequence in this step, 0. */
  tokensMeta: Tensor;
  /** [sequences, 4]: prefix length P, keys valid after this step's writes, 0, 0. */
  sequences: Tensor;
  /** [sequences, blocks per sequence]: the physical block of each logical one. */
  blockTables: Tensor;
  /** [tokens, heads * headDim] */
  y: Tensor;
  heads: number;
  kvHeads: number;
  headDim: number;
  scale: number;
  /** Only keys nearer than this are visible; 0 or left out: all. */
  window?: number;
  /** cap * tanh(score / cap); 0 or left out: none. */
  softCap?: number;
}

/**
 * Attention of a ragged batch over the paged cache, by the Prefix LM rule: key j is visible to query i iff
 * j <= i or both are below the sequence's P, and |i - j| < window. A token's result depends on its own sequence only.
 * Keys do not count in `bytes` and `flops`, since how many there are is known on the device alone.
 */
export function attention(traits: GpuTraits, options: AttentionOptions): Dispatch {
  const { q, kv, tokensMeta, sequences, blockTables, y } = options;
  const { heads, kvHeads, headDim, scale, qOffset = 0, window = 0, softCap = 0 } = options;
  const meta = { tokens_meta: tokensMeta, sequences, block_tables: blockTables };
  const tensors = { q, kv, kv_scales: cacheScales(kv, q), ...meta, y };
  const sizes = matchTensors(attentionSpec, tensors);
  check(options, sizes);
  const { tokens } = sizes;
  const params = { ...sizes, heads, kv_heads: kvHeads, head_dim: headDim, q_offset: qOffset };
  return {
    spec: attentionSpec,
    ...variant(traits, formatCode[kv.dtype] ?? 0, headDim),
    tensors,
    params: { ...params, window, scale, soft_cap: softCap },
    workgroups: [
      traits.isCpu ? groups(heads, cpuLanes) : heads,
      Math.min(tokens, workgroupsMax),
      groups(tokens, workgroupsMax),
    ],
    bytes: 8 * tokens * heads * headDim,
    flops: 0,
  };
}

const cpuLanes = 4; // one SIMD group; fewer lanes were slower, more gained nothing
const gpuLanes = 256;
const headDimMax = 512; // what 32 KiB of workgroup memory and the CPU variant's registers were sized for
const workgroupsMax = 65535; // WebGPU's limit in each dimension

function variant(
  traits: GpuTraits,
  FORMAT: number,
  headDim: number,
): Pick<Dispatch, "file" | "constants" | "replace"> {
  const eighths = headDim / 8;
  if (traits.isCpu) {
    return {
      file: "attention-cpu",
      constants: { LANES: cpuLanes, FORMAT },
      replace: { HEAD_EIGHTHS: `${eighths}u` },
    };
  }
  const SPAN = 2 ** Math.ceil(Math.log2(Math.floor(gpuLanes / eighths))) / 2;
  return { file: "attention", constants: { LANES: gpuLanes, HEAD_EIGHTHS: eighths, SPAN, FORMAT } };
}

function check(options: AttentionOptions, sizes: Readonly<Record<string, number>>): void {
  const { heads, kvHeads, headDim, qOffset = 0 } = options;
  checkMultiple("attention", "heads", heads, kvHeads);
  checkMultiple("attention", "headDim", headDim, 8);
  checkMultiple("attention", "the row length of q", sizes.q_row, 4);
  checkMultiple("attention", "qOffset", qOffset, 4);
  const expect = (what: string, holds: boolean, found: number) => {
    if (!holds) throw new TypeError(`Cannot run attention: expected ${what}, got ${found}`);
  };
  expect(`headDim up to ${headDimMax}`, headDim <= headDimMax, headDim);
  expect(
    `kv_channels = kvHeads * headDim = ${kvHeads * headDim}`,
    sizes.kv_channels === kvHeads * headDim,
    sizes.kv_channels,
  );
  checkCacheScales("attention", options, sizes);
  expect(`y_row = heads * headDim = ${heads * headDim}`, sizes.y_row === heads * headDim, sizes.y_row);
  const end = qOffset + heads * headDim;
  expect(`q to have at least ${end} columns`, end <= sizes.q_row, sizes.q_row);
}

/** The scales of an i8 cache as they are bound; of another cache `unread`, which then is not read. */
export function cacheScales({ scales }: Tensor, unread: Tensor): Tensor {
  return scales ? flatten(scales) : { ...flatten(unread), dtype: "f32" };
}

/** Throws TypeError unless an i8 cache has a scale for the key and the value of each head of a token. */
export function checkCacheScales(
  kernel: string,
  { kv, kvHeads }: Pick<AttentionOptions, "kv" | "kvHeads">,
  { blocks, block_size }: Readonly<Record<string, number>>,
): void {
  if (kv.dtype !== "i8") return;
  const wanted = blocks * 2 * block_size * kvHeads;
  const found = kv.scales ? elementCount(kv.scales.shape) : 0;
  if (found !== wanted)
    throw new TypeError(`Cannot run ${kernel}: expected ${wanted} scales of kv, got ${found}`);
}
