import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { flatten, type Tensor } from "../tensor.ts";
import { chosen, tokensClass, tunable, type Variants } from "../tuning.ts";
import { type AttentionOptions, cacheScales, checkCacheScales } from "./attention.ts";
import { checkMultiple } from "./token-grid.ts";

export const attentionDecodeSpec: KernelSpec = {
  name: "attention-decode",
  files: ["attention-decode"],
  params: { scale: "f32", soft_cap: "f32" },
  tensors: {
    q: tensor("read", "packed", "tokens q_row"),
    kv: tensor("read_write", "cache", "blocks 2 block_size kv_channels"),
    factors: tensor("read", "f32", "factors"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    sequences: tensor("read", "u32", "sequences 4"),
    block_tables: tensor("read", "u32", "sequences blocks_per_sequence"),
    gate: tensor("read", "packed", "tokens gate_row"),
    y: tensor("read_write", "packed", "tokens y_row"),
  },
};

export interface AttentionDecodeOptions extends AttentionOptions {
  /**
   * Most shares of a query's keys. 1: y is the result, f32 or f16 [tokens, heads * headDim]. More: y holds the shares,
   * f32 [tokens, sharesRow(...)], which `combineLinear` adds up.
   */
  splits: number;
  /** Multiplies a finished result by the sigmoid of heads * headDim columns from `offset` on; f32 or f16. */
  gate?: { rows: Tensor; offset: number };
  /**
   * The rows of q are a projection's, with each token's own key and value. Token i is of sequence i, the only one of it;
   * splits is 1.
   */
  own?: OwnKeys;
}

/**
 * What a decoding token adds to its sequence: query and key are turned in the kernel, the key is attended to as the last
 * one, and key and value are put into the cache, f16, at the token's slot; a slot outside is skipped.
 */
export interface OwnKeys {
  /** Columns of q at which keys and values begin: multiples of 8. */
  kOffset: number;
  vOffset: number;
  /** f32 [positions, rotary_dim], from `rotaryTable`; rotary_dim is a multiple of 16. */
  cosSin: Tensor;
}

/** Workgroups that fill a large GPU (132 multiprocessors). */
const workgroupsWanted = 256;
const splitsMax = 16;

/**
 * Shares of a step's keys: a power of two, as many as fill the GPU and are worth their combination. Shares of 32 keys
 * are, up to eight; more only if they are long, since every workgroup of the product behind reads all of them.
 */
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
  const workgroups = (tokens * heads) / headsOfGroup({ tokens, heads, kvHeads });
  const worth = Math.max(Math.min(keys / 32, 8), keys / 128);
  const wanted = Math.min(workgroupsWanted / workgroups, worth, splitsMax);
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
  /** Query heads of a workgroup, which share their kv head. */
  groupHeads: number;
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
  const { q, kv, tokensMeta, sequences, blockTables, y, heads, headDim, splits } = options;
  const gate = options.gate?.rows ?? q;
  const tensors = {
    q,
    kv,
    factors: options.own ? flatten(options.own.cosSin) : cacheScales(kv, q),
    tokens_meta: tokensMeta,
    sequences,
    block_tables: blockTables,
    gate,
    y,
  };
  const sizes = matchTensors(attentionDecodeSpec, tensors);
  check(options, sizes);
  const variants = shapeVariants(traits, options);
  const shape = given ? { ...variants.byDefault, ...given } : chosen(traits, variants);
  return {
    spec: attentionDecodeSpec,
    file: "attention-decode",
    constants: constantsOf(options, sizes, shape),
    replace: {
      GROUP_HEADS: String(shape.groupHeads),
      HEAD_EIGHTHS: String(headDim / 8),
      KEY_LANES: String(shape.keyLanes),
      KEYS: String(shape.keys),
      // Heads that share a key have work for the while; a head on its own would keep other workgroups' registers.
      AHEAD: shape.groupHeads > 1 ? "1" : "0",
      LANES: String(shape.lanes),
      SUBGROUPS: String(shape.lanes / Math.min(traits.subgroupMinSize, shape.lanes)),
    },
    tensors,
    params: { scale: options.scale, soft_cap: options.softCap ?? 0 },
    workgroups: [heads / shape.groupHeads, sizes.tokens, splits],
    bytes: 8 * sizes.tokens * heads * headDim,
    flops: 0,
    tunable: tunable(variants, (choice) => attentionDecode(traits, options, choice)),
  };
}

function constantsOf(
  options: AttentionDecodeOptions,
  sizes: Readonly<Record<string, number>>,
  shape: AttentionDecodeShape,
): Record<string, number> {
  const { q, kv, y, gate, own, heads, kvHeads, splits, qOffset = 0, window = 0 } = options;
  return {
    FORMAT: formatCode[kv.dtype] ?? 0,
    Q_FORMAT: formatCode[q.dtype] ?? 0,
    Y_FORMAT: formatCode[y.dtype] ?? 0,
    PARTIAL: splits > 1 ? 1 : 0,
    GATED: gate ? 1 : 0,
    GATE_FORMAT: formatCode[gate?.rows.dtype ?? "f32"] ?? 0,
    GATE_ROW: sizes.gate_row,
    HEADS: heads,
    KV_HEADS: kvHeads,
    Q_ROW: sizes.q_row,
    Q_OFFSET: qOffset,
    GATE_OFFSET: gate?.offset ?? 0,
    BLOCK_SIZE: sizes.block_size,
    BLOCKS_PER_SEQUENCE: sizes.blocks_per_sequence,
    WINDOW: window,
    SPLITS: splits,
    SPLIT_KEYS: shape.splitKeys,
    OWN: own ? 1 : 0,
    K_OFFSET: own?.kOffset ?? 0,
    V_OFFSET: own?.vOffset ?? 0,
    ROTARY_EIGHTHS: own ? own.cosSin.shape[1] / 8 : 2,
    POSITIONS: own ? own.cosSin.shape[0] : 1,
    BLOCKS: sizes.blocks,
  };
}

const groupHeadsMax = 4; // more would not fit a lane's registers
const headDimMax = 256;

/** Query heads of a workgroup: as many as share keys and fit, once there are enough workgroups without that. */
function headsOfGroup({
  tokens,
  heads,
  kvHeads,
}: {
  tokens: number;
  heads: number;
  kvHeads: number;
}): number {
  if (tokens * heads < 2 * workgroupsWanted) return 1;
  const shared = heads / kvHeads;
  for (let count = Math.min(shared, groupHeadsMax); count > 1; count--) {
    if (shared % count === 0) return count;
  }
  return 1;
}

function defaultShape(
  { subgroupMinSize }: GpuTraits,
  { q, heads, kvHeads, headDim, splits }: AttentionDecodeOptions,
): AttentionDecodeShape {
  const tokens = q.shape[0];
  const groupHeads = headsOfGroup({ tokens, heads, kvHeads });
  const isAlone = splits === 1 && tokens * heads < workgroupsWanted / 2;
  const isCrowd = tokens * heads >= 2 * workgroupsWanted;
  return {
    lanes: subgroupMinSize < 8 ? 32 : isAlone ? 256 : 128,
    // Where there are workgroups enough, a lane with less of a key leaves registers to more of them.
    keyLanes: Math.min(subgroupMinSize, isCrowd ? 16 : 8, 2 ** Math.ceil(Math.log2(headDim / 8))),
    keys: groupHeads === 1 ? 4 : 2,
    splitKeys: 32,
    groupHeads,
  };
}

/** All share the keys out alike: shares are another kernel's to add up. */
function shapeVariants(traits: GpuTraits, options: AttentionDecodeOptions): Variants<AttentionDecodeShape> {
  const { heads, headDim, splits, kv, q } = options;
  const byDefault = defaultShape(traits, options);
  const keyLanes = [4, 8, 16].filter((lanes) => lanes <= traits.subgroupMinSize && lanes <= headDim / 8);
  const lanes = [64, 128, 256].filter((count) => count >= traits.subgroupMaxSize);
  const sizes = lanes.flatMap((count) => keyLanes.map((each) => ({ lanes: count, keyLanes: each })));
  return {
    shape: {
      kernel: "attention-decode",
      rows: (heads / byDefault.groupHeads) * splits,
      inputs: headDim,
      tokens: tokensClass(q.shape[0]),
      format: kv.dtype,
    },
    byDefault,
    others: () => sizes.flatMap((size) => [1, 2, 4].map((keys) => ({ ...byDefault, ...size, keys }))),
  };
}

function check(options: AttentionDecodeOptions, sizes: Readonly<Record<string, number>>): void {
  const { q, y, gate, heads, kvHeads, headDim, splits, qOffset = 0 } = options;
  checkMultiple("attention-decode", "heads", heads, kvHeads);
  checkMultiple("attention-decode", "headDim", headDim, 8);
  checkMultiple("attention-decode", "the row length of q", sizes.q_row, 8);
  checkMultiple("attention-decode", "qOffset", qOffset, 8);
  checkMultiple("attention-decode", "the row length of gate", sizes.gate_row, 8);
  checkMultiple("attention-decode", "the offset of gate", gate?.offset ?? 0, 8);
  for (const { name, dtype } of [q, y, gate?.rows ?? q]) {
    if (dtype === "bf16" || (name === y.name && splits > 1 && dtype !== "f32")) {
      throw new TypeError(
        `Cannot run attention-decode: expected ${name} to be f32 or f16 (shares f32), got ${dtype}`,
      );
    }
  }
  const expect = (what: string, holds: boolean, found: number) => {
    if (!holds) throw new TypeError(`Cannot run attention-decode: expected ${what}, got ${found}`);
  };
  expect(`headDim up to ${headDimMax}`, headDim <= headDimMax, headDim);
  expect("at least one split", splits >= 1, splits);
  const channels = kvHeads * headDim;
  expect(`kv_channels = ${channels}`, sizes.kv_channels === channels, sizes.kv_channels);
  checkCacheScales("attention-decode", options, sizes);
  const row = splits > 1 ? sharesRow(heads, splits, headDim) : heads * headDim;
  expect(`y_row = ${row}`, sizes.y_row === row, sizes.y_row);
  const end = qOffset + heads * headDim;
  expect(`q to have at least ${end} columns`, end <= sizes.q_row, sizes.q_row);
  checkOwn(options, sizes);
  const gateEnd = (gate?.offset ?? 0) + heads * headDim;
  if (gate) expect(`gate to have at least ${gateEnd} columns`, gateEnd <= sizes.gate_row, sizes.gate_row);
}

function checkOwn(
  { own, kv, kvHeads, headDim, splits }: AttentionDecodeOptions,
  sizes: Readonly<Record<string, number>>,
) {
  if (!own) return;
  const expect = (what: string, holds: boolean, found: number | string) => {
    if (!holds)
      throw new TypeError(`Cannot run attention-decode on own keys: expected ${what}, got ${found}`);
  };
  expect("one split", splits === 1, splits);
  expect("a cache of f16", kv.dtype === "f16", `${kv.dtype} (${kv.name})`);
  const [, rotaryDim] = own.cosSin.shape;
  checkMultiple("attention-decode", "rotary_dim", rotaryDim, 16);
  expect(`rotary_dim up to ${headDim}`, rotaryDim <= headDim, rotaryDim);
  for (const [name, offset] of Object.entries({ kOffset: own.kOffset, vOffset: own.vOffset })) {
    checkMultiple("attention-decode", name, offset, 8);
    const end = offset + kvHeads * headDim;
    expect(`q to have at least ${end} columns`, end <= sizes.q_row, sizes.q_row);
  }
}
