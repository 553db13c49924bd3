import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { bytesPerElement, type Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const kvWriteSpec: KernelSpec = {
  name: "kv-write",
  files: ["kv-write"],
  params: {
    tokens: "u32",
    k_row: "u32",
    k_offset: "u32",
    v_row: "u32",
    v_offset: "u32",
    kv_channels: "u32",
    blocks: "u32",
    block_size: "u32",
  },
  tensors: {
    k: tensor("read", "f32", "tokens k_row"),
    v: tensor("read", "f32", "tokens v_row"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    kv: tensor("read_write", "packed", "blocks 2 block_size kv_channels"),
  },
};

/** Of an i8 cache, whose scales are written with it. */
export const kvWriteInt8Spec: KernelSpec = {
  name: "kv-write-int8",
  files: ["kv-write-int8"],
  params: {
    tokens: "u32",
    k_row: "u32",
    k_offset: "u32",
    v_row: "u32",
    v_offset: "u32",
    kv_channels: "u32",
    kv_heads: "u32",
    blocks: "u32",
    block_size: "u32",
  },
  tensors: {
    k: tensor("read", "packed", "tokens k_row"),
    v: tensor("read", "packed", "tokens v_row"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    kv: tensor("read_write", "i8", "blocks 2 block_size kv_channels"),
    kv_scales: tensor("read_write", "f32", "blocks 2 block_size kv_heads"),
  },
};

export interface KvWriteOptions {
  /** f32 [tokens, row], for an i8 cache also f16; likewise v. */
  k: Tensor;
  /** First column of the keys in a row of `k`, a multiple of 4; likewise `vOffset`. Default 0. */
  kOffset?: number;
  v: Tensor;
  vOffset?: number;
  /** [tokens, 4]: column 1 is the slot, physical block * block size + place in the block. */
  tokensMeta: Tensor;
  /**
   * The cache of one layer pass: index 0 of the second dimension holds keys, 1 values. If it is i8, its scales are f32
   * [blocks, 2, block size, heads]: each head of a token has one for its key and one for its value.
   */
  kv: Tensor;
}

/** Stores each token's key and value at its slot, rounded to the cache's dtype. */
export function kvWrite(traits: GpuTraits, options: KvWriteOptions): Dispatch {
  const { kv } = options;
  return kv.scales ? writeInt8(traits, options, kv.scales) : writePacked(traits, options);
}

function writePacked(traits: GpuTraits, options: KvWriteOptions): Dispatch {
  const { k, v, tokensMeta, kv, kOffset = 0, vOffset = 0 } = options;
  const tensors = { k, v, tokens_meta: tokensMeta, kv };
  const sizes = matchTensors(kvWriteSpec, tensors);
  const { tokens, k_row, v_row, kv_channels } = sizes;
  checkColumns("k", kOffset, kv_channels, k_row);
  checkColumns("v", vOffset, kv_channels, v_row);
  checkMultiple("kv-write", "kv_channels", kv_channels, 8);
  const words = kv_channels / (16 / bytesPerElement[kv.dtype]);
  const { lanes, workgroups } = tokenGrid(traits, tokens, 2 * words);
  return {
    spec: kvWriteSpec,
    file: "kv-write",
    constants: { LANES: lanes, FORMAT: formatCode[kv.dtype] ?? 0 },
    tensors,
    params: { ...sizes, k_offset: kOffset, v_offset: vOffset },
    workgroups,
    bytes: tokens * 2 * kv_channels * (4 + bytesPerElement[kv.dtype]),
    flops: 0,
  };
}

const headLanesMax = 32;

function writeInt8(traits: GpuTraits, options: KvWriteOptions, scales: Tensor): Dispatch {
  const { k, v, tokensMeta, kv, kOffset = 0, vOffset = 0 } = options;
  const tensors = { k, v, tokens_meta: tokensMeta, kv, kv_scales: scales };
  const sizes = matchTensors(kvWriteInt8Spec, tensors);
  const { tokens, k_row, v_row, kv_channels, kv_heads } = sizes;
  checkColumns("k", kOffset, kv_channels, k_row);
  checkColumns("v", vOffset, kv_channels, v_row);
  checkMultiple("kv-write", "kv_channels", kv_channels, 8 * kv_heads);
  for (const { name, dtype } of [k, v]) {
    if (dtype === "bf16")
      throw new TypeError(`Cannot run kv-write: expected ${name} to be f32 or f16, got bf16`);
  }
  const quads = kv_channels / kv_heads / 4;
  const headLanes = traits.isCpu ? 1 : 2 ** Math.floor(Math.log2(Math.min(quads, headLanesMax)));
  const { lanes, workgroups } = tokenGrid(traits, tokens, 2 * kv_heads * headLanes);
  return {
    spec: kvWriteInt8Spec,
    file: "kv-write-int8",
    constants: {
      LANES: lanes,
      HEAD_LANES: headLanes,
      K_FORMAT: formatCode[k.dtype] ?? 0,
      V_FORMAT: formatCode[v.dtype] ?? 0,
    },
    tensors,
    params: { ...sizes, k_offset: kOffset, v_offset: vOffset },
    workgroups,
    bytes: tokens * ((bytesPerElement[k.dtype] + bytesPerElement[v.dtype] + 2) * kv_channels + 8 * kv_heads),
    flops: tokens * 2 * 2 * kv_channels,
  };
}

function checkColumns(name: string, offset: number, channels: number, row: number): void {
  checkMultiple("kv-write", `the row length of ${name}`, row, 4);
  checkMultiple("kv-write", `${name}Offset`, offset, 4);
  if (offset + channels > row) {
    throw new TypeError(
      `Cannot run kv-write: expected ${channels} columns from ${offset} on in ${name}, got rows of ${row}`,
    );
  }
}
