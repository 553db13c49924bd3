import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { bytesPerElement, flatten, type Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const rotaryKvSpec: KernelSpec = {
  name: "rotary-kv",
  files: ["rotary-kv"],
  params: {
    tokens: "u32",
    row: "u32",
    q_offset: "u32",
    k_offset: "u32",
    v_offset: "u32",
    heads: "u32",
    kv_heads: "u32",
    head_dim: "u32",
    rotary_dim: "u32",
    q_channels: "u32",
    positions: "u32",
    blocks: "u32",
    block_size: "u32",
    eps: "f32",
  },
  tensors: {
    x: tensor("read", "packed", "tokens row"),
    cos_sin: tensor("read", "f32", "positions rotary_dim"),
    q_weight: tensor("read", "f32", "q_weights"),
    k_weight: tensor("read", "f32", "k_weights"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    q: tensor("read_write", "packed", "tokens q_channels"),
    kv: tensor("read_write", "cache", "blocks 2 block_size kv_channels"),
  },
};

/** RMS norm of each head of queries and keys, before they are turned. */
export interface HeadNorm {
  /** f32 [headDim] */
  queryWeight: Tensor;
  keyWeight: Tensor;
  /** Multiplies by 1 + w instead of w, as Gemma does. */
  plusOne?: boolean;
  eps: number;
}

export interface RotaryKvOptions {
  /** f32 or f16 [tokens, row]: a projection's rows. */
  x: Tensor;
  /** Columns of x at which queries, keys and values begin: multiples of 4. */
  qOffset: number;
  kOffset: number;
  vOffset: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  norm?: HeadNorm;
  /** f32 [positions, rotary_dim], from `rotaryTable`; channels of a head from rotary_dim on stay as they are. */
  cosSin: Tensor;
  /** [tokens, 4]: position, slot. */
  tokensMeta: Tensor;
  /** f16 [tokens, heads * headDim], written; for an i8 cache [tokens, (heads + kvHeads) * headDim], keys last. */
  q: Tensor;
  /** f16, the cache of one layer pass, written at the tokens' slots; a slot outside is skipped. One of i8 is left to `kvWrite`. */
  kv: Tensor;
}

/** What attention needs of a projection: queries normed and turned, keys and values in the cache, all in f16. */
export function rotaryKv(traits: GpuTraits, options: RotaryKvOptions): Dispatch {
  const { x, cosSin, tokensMeta, q, kv, norm, heads, kvHeads, headDim } = options;
  const unread = flatten(cosSin);
  const [q_weight, k_weight] = norm ? [norm.queryWeight, norm.keyWeight] : [unread, unread];
  const tensors = { x, cos_sin: cosSin, q_weight, k_weight, tokens_meta: tokensMeta, q, kv };
  const sizes = matchTensors(rotaryKvSpec, tensors);
  check(options, sizes);
  const { tokens } = sizes;
  const { lanes } = tokenGrid(traits, tokens, 1);
  const LANES = Math.max(lanes, headDim / 8);
  const groupHeads = Math.floor(LANES / (headDim / 8));
  const elements = tokens * (heads + 2 * kvHeads) * headDim;
  return {
    spec: rotaryKvSpec,
    file: "rotary-kv",
    constants: {
      LANES,
      X_FORMAT: formatCode[x.dtype] ?? 0,
      KV_INT8: kv.dtype === "i8" ? 1 : 0,
      NORM: !norm ? 0 : norm.plusOne ? 2 : 1,
    },
    tensors,
    params: {
      ...sizes,
      q_offset: options.qOffset,
      k_offset: options.kOffset,
      v_offset: options.vOffset,
      heads,
      kv_heads: kvHeads,
      head_dim: headDim,
      eps: norm?.eps ?? 0,
    },
    workgroups: [groups(heads + 2 * kvHeads, groupHeads), Math.min(tokens, 65535), 1],
    bytes: elements * (bytesPerElement[x.dtype] + 2),
    flops: elements * (norm ? 7 : 3),
  };
}

function check(options: RotaryKvOptions, sizes: Readonly<Record<string, number>>): void {
  const { x, q, kv, norm, heads, kvHeads, headDim } = options;
  const expect = (what: string, holds: boolean, found: number | string) => {
    if (!holds) throw new TypeError(`Cannot run rotary-kv: expected ${what}, got ${found}`);
  };
  checkMultiple("rotary-kv", "headDim", headDim, 8);
  checkMultiple("rotary-kv", "rotary_dim", sizes.rotary_dim, 8);
  checkMultiple("rotary-kv", "the row length of x", sizes.row, 4);
  expect(`rotary_dim of at most ${headDim}`, sizes.rotary_dim <= headDim, sizes.rotary_dim);
  expect("x to be f32 or f16", x.dtype !== "bf16", `${x.dtype} (${x.name})`);
  expect("q to be f16", q.dtype === "f16", q.dtype);
  expect("kv to be f16 or i8", ["f16", "i8"].includes(kv.dtype), kv.dtype);
  const parts = { qOffset: heads, kOffset: kvHeads, vOffset: kvHeads } as const;
  for (const [name, count] of Object.entries(parts) as [keyof typeof parts, number][]) {
    checkMultiple("rotary-kv", name, options[name], 4);
    const end = options[name] + count * headDim;
    expect(`${count * headDim} columns from ${name} on within rows of ${sizes.row}`, end <= sizes.row, end);
  }
  const { q_channels, kv_channels } = sizes;
  const width = (heads + (kv.dtype === "i8" ? kvHeads : 0)) * headDim;
  expect(`q_channels = ${width}`, q_channels === width, q_channels);
  expect(
    `kv_channels = kvHeads * headDim = ${kvHeads * headDim}`,
    kv_channels === kvHeads * headDim,
    kv_channels,
  );
  for (const weight of norm ? [norm.queryWeight, norm.keyWeight] : []) {
    expect(`${weight.name} [${headDim}]`, weight.shape[0] === headDim, `[${weight.shape.join(", ")}]`);
  }
}
