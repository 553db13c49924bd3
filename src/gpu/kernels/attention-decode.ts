import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { AttentionOptions } from "./attention.ts";
import { checkMultiple } from "./token-grid.ts";

export const attentionDecodeSpec: KernelSpec = {
  name: "attention-decode",
  files: ["attention-decode"],
  params: {
    tokens: "u32",
    heads: "u32",
    kv_heads: "u32",
    q_row: "u32",
    q_offset: "u32",
    gate_offset: "u32",
    block_size: "u32",
    blocks_per_sequence: "u32",
    window: "u32",
    splits: "u32",
    split_keys: "u32",
    scale: "f32",
    soft_cap: "f32",
  },
  tensors: {
    q: tensor("read", "f32", "tokens q_row"),
    kv: tensor("read", "packed", "blocks 2 block_size kv_channels"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    sequences: tensor("read", "u32", "sequences 4"),
    block_tables: tensor("read", "u32", "sequences blocks_per_sequence"),
    y: tensor("read_write", "f32", "tokens y_row"),
  },
};

export interface AttentionDecodeOptions extends AttentionOptions {
  /**
   * Most shares of a query's keys. 1: y is the result, [tokens, heads * headDim]. More: y holds the shares,
   * [tokens, sharesRow(...)], which `combineLinear` adds up.
   */
  splits: number;
  /** First column of the gates in a row of `q`, a multiple of 4: a finished result is multiplied by their sigmoid. */
  gateOffset?: number;
}

/** Workgroups that fill a large GPU (132 multiprocessors), and the fewest keys that are worth a share of their own. */
const workgroupsWanted = 256;
const shareKeysMin = 64;
const splitsMax = 16;

/** Shares of a step's keys: a power of two, as many as fill the GPU and are worth their combination. */
export function chooseSplits({
  tokens,
  heads,
  kvHeads,
  keys,
}: {
  tokens: number;
  heads: number;
  kvHeads: number;
  keys: number;
}): number {
  const workgroups = (tokens * heads) / headsOfGroup(heads / kvHeads);
  const wanted = Math.min(workgroupsWanted / workgroups, keys / shareKeysMin, splitsMax);
  return 2 ** Math.max(0, Math.floor(Math.log2(wanted)));
}

/** How the work is shared out; the defaults are what was fastest on an H100 (docs/log.md). */
export interface AttentionDecodeShape {
  lanes: number;
  keyLanes: number;
  /** Keys in flight a team of lanes. */
  keys: number;
  /** Fewest keys worth a share of their own. */
  splitKeys: number;
}

/** Columns of the shares of a token: the values of a share, then its maximum, its weight and the number of shares. */
export function sharesRow(heads: number, splits: number, headDim: number): number {
  return heads * splits * (headDim + 4);
}

/**
 * Attention as `attention` computes it, for few queries with many keys each: split over the keys, so that one query
 * occupies a whole GPU. A token's result depends on its own sequence and on `splits` alone. Needs subgroups.
 */
export function attentionDecode(
  traits: GpuTraits,
  options: AttentionDecodeOptions,
  given?: Partial<AttentionDecodeShape>,
): Dispatch {
  const { q, kv, tokensMeta, sequences, blockTables, y, heads, kvHeads, headDim, splits } = options;
  const tensors = { q, kv, tokens_meta: tokensMeta, sequences, block_tables: blockTables, y };
  const sizes = matchTensors(attentionDecodeSpec, tensors);
  check(options, sizes);
  const groupHeads = headsOfGroup(heads / kvHeads);
  const shape = { ...defaultShape(traits, headDim), ...given };
  return {
    spec: attentionDecodeSpec,
    file: "attention-decode",
    constants: {
      FORMAT: formatCode[kv.dtype] ?? 0,
      PARTIAL: splits > 1 ? 1 : 0,
      GATED: options.gateOffset === undefined ? 0 : 1,
    },
    replace: {
      HEADS: String(groupHeads),
      HEAD_EIGHTHS: String(headDim / 8),
      KEY_LANES: String(shape.keyLanes),
      KEYS: String(shape.keys),
      LANES: String(shape.lanes),
      SUBGROUPS: String(shape.lanes / Math.min(traits.subgroupMinSize, shape.lanes)),
    },
    tensors,
    params: {
      ...sizes,
      heads,
      kv_heads: kvHeads,
      q_offset: options.qOffset ?? 0,
      gate_offset: options.gateOffset ?? 0,
      window: options.window ?? 0,
      splits,
      split_keys: shape.splitKeys,
      scale: options.scale,
      soft_cap: options.softCap ?? 0,
    },
    workgroups: [heads / groupHeads, sizes.tokens, splits],
    bytes: 8 * sizes.tokens * heads * headDim,
    flops: 0,
  };
}

const groupHeadsMax = 4; // more would not fit a lane's registers
const headDimMax = 256;

/** Query heads of a workgroup: as many as share keys and fit. */
function headsOfGroup(shared: number): number {
  for (let count = Math.min(shared, groupHeadsMax); count > 1; count--) {
    if (shared % count === 0) return count;
  }
  return 1;
}

function defaultShape(traits: GpuTraits, headDim: number): AttentionDecodeShape {
  const most = Math.min(traits.subgroupMinSize, 8);
  const keyLanes = Math.min(most, 2 ** Math.ceil(Math.log2(headDim / 8)));
  return { lanes: traits.subgroupMinSize < 8 ? 16 : 256, keyLanes, keys: 2, splitKeys: 32 };
}

function check(options: AttentionDecodeOptions, sizes: Readonly<Record<string, number>>): void {
  const { heads, kvHeads, headDim, splits, qOffset = 0, gateOffset = 0 } = options;
  checkMultiple("attention-decode", "heads", heads, kvHeads);
  checkMultiple("attention-decode", "headDim", headDim, 8);
  checkMultiple("attention-decode", "the row length of q", sizes.q_row, 4);
  checkMultiple("attention-decode", "qOffset", qOffset, 4);
  checkMultiple("attention-decode", "gateOffset", gateOffset, 4);
  const expect = (what: string, holds: boolean, found: number) => {
    if (!holds) throw new TypeError(`Cannot run attention-decode: expected ${what}, got ${found}`);
  };
  expect(`headDim up to ${headDimMax}`, headDim <= headDimMax, headDim);
  expect("at least one split", splits >= 1, splits);
  const channels = kvHeads * headDim;
  expect(`kv_channels = ${channels}`, sizes.kv_channels === channels, sizes.kv_channels);
  const row = splits > 1 ? sharesRow(heads, splits, headDim) : heads * headDim;
  expect(`y_row = ${row}`, sizes.y_row === row, sizes.y_row);
  const end = Math.max(qOffset, gateOffset) + heads * headDim;
  expect(`q to have at least ${end} columns`, end <= sizes.q_row, sizes.q_row);
}
