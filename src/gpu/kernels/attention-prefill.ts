import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { bytesPerElement, type Dtype, type Tensor } from "../tensor.ts";
import { cacheScales, checkCacheScales } from "./attention.ts";
import { checkMultiple } from "./token-grid.ts";
import { cores } from "./reference-gpu.ts";

export const attentionPrefillSpec: KernelSpec = {
  name: "attention-prefill",
  files: ["attention-prefill"],
  params: {
    heads: "u32",
    kv_heads: "u32",
    q_row: "u32",
    q_offset: "u32",
    gate_row: "u32",
    gate_offset: "u32",
    block_size: "u32",
    blocks_per_sequence: "u32",
    window: "u32",
    scale: "f32",
    soft_cap: "f32",
  },
  tensors: {
    q: tensor("read", "packed", "tokens q_row"),
    kv: tensor("read", "cache", "blocks 2 block_size kv_channels"),
    kv_scales: tensor("read", "f32", "scales"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    sequences: tensor("read", "u32", "sequences 4"),
    block_tables: tensor("read", "u32", "sequences blocks_per_sequence"),
    tiles: tensor("read", "u32", "tiles 4"),
    gate: tensor("read", "packed", "tokens gate_row"),
    y: tensor("read_write", "packed", "tokens y_row"),
  },
};

export interface AttentionPrefillOptions {
  /** f16 or f32 (then rounded to f16) [tokens, q_row] */
  q: Tensor;
  /** First column of the queries in a row of `q`, a multiple of 8. Default 0. */
  qOffset?: number;
  /** f16 or i8, the cache of one layer pass, written before. */
  kv: Tensor;
  /** [tokens, 4]: position in the sequence first; the tokens of a tile have consecutive ones. */
  tokensMeta: Tensor;
  /** [sequences, 4]: prefix length P, keys valid after this step's writes, 0, 0. */
  sequences: Tensor;
  /** [sequences, blocks per sequence]: the physical block of each logical one. */
  blockTables: Tensor;
  /** [tiles, 4], from `queryTiles`, and the size they were cut to: one of `queryTileSizes`. */
  tiles: Tensor;
  tileTokens: number;
  /** f16 or f32 [tokens, heads * headDim] */
  y: Tensor;
  heads: number;
  kvHeads: number;
  headDim: number;
  scale: number;
  /** Only keys nearer than this are visible; 0 or left out: all. */
  window?: number;
  /** cap * tanh(score / cap); 0 or left out: none. */
  softCap?: number;
  /** Multiplies by the sigmoid of heads * headDim columns from `offset` (a multiple of 8) on; f16 or f32. */
  gate?: { rows: Tensor; offset: number };
}

/** The formats of a cache there is a kernel for; and the head dimensions. */
const kvFormats: readonly Dtype[] = ["f16", "i8"];
const headDims: readonly number[] = [64, 96, 128];

/** Keys staged at a time: a lane of a subgroup looks up one of them. */
const roundKeys = 32;

/**
 * Subgroups of a workgroup, 16 queries each, with the time that it takes for a round of keys. That is latency for the
 * most part, so that eight take half as long again as four.
 */
const tiles: readonly { subgroups: number; cost: number }[] = [
  { subgroups: 4, cost: 2 },
  { subgroups: 6, cost: 2.8 },
  { subgroups: 8, cost: 3.1 },
];

/** Queries of a tile. */
export const queryTileSizes: readonly number[] = tiles.map(({ subgroups }) => 16 * subgroups);

/** The size of tiles with which these runs are done first, where each tile is a workgroup for each head. */
export function chooseQueryTile(runs: readonly QueryRun[], heads: number): number {
  const time = ({ subgroups, cost }: (typeof tiles)[number]) => {
    const count = runs.reduce((sum, { tokens }) => sum + groups(tokens, 16 * subgroups), 0);
    return groups(heads * count, cores) * cost;
  };
  return 16 * tiles.reduce((best, other) => (time(other) < time(best) ? other : best)).subgroups;
}

/** The consts of wgsl/attention-prefill.wgsl for tiles of so many queries. */
export function attentionConsts(headDim: number, tileTokens: number): Record<string, string> {
  const subgroups = tileTokens / 16;
  const fragments = headDim / 16;
  const values = {
    FRAGMENTS: fragments,
    HALF: fragments / 2,
    SUBGROUPS: subgroups,
    ITEMS: groups((roundKeys * headDim) / 8, 32 * subgroups),
  };
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, `${value}u`]));
}

/** Whether this device and cache suit `attentionPrefill`; if not, `attention` does the same. */
export function suitsAttentionPrefill(
  { hasSubgroupMatrix }: GpuTraits,
  kv: Tensor,
  headDim: number,
): boolean {
  return hasSubgroupMatrix && kvFormats.includes(kv.dtype) && headDims.includes(headDim);
}

/** Consecutive tokens of a step that belong to one sequence of it, at consecutive positions. */
export interface QueryRun {
  firstToken: number;
  tokens: number;
  sequence: number;
}

/** The tiles of a step's queries: [tiles, 4] of first token, tokens (0: nothing to do), sequence, 0. */
export function queryTiles(runs: readonly QueryRun[], tileTokens: number): Uint32Array<ArrayBuffer> {
  const cut = runs.flatMap(({ firstToken, tokens, sequence }) =>
    Array.from({ length: groups(tokens, tileTokens) }, (_, tile) => {
      const first = tile * tileTokens;
      return [firstToken + first, Math.min(tileTokens, tokens - first), sequence, 0];
    }),
  );
  return Uint32Array.from(cut.flat());
}

/**
 * Attention of many queries of each sequence over the paged cache, on matrix units; the rule of what is visible is that
 * of `attention`. Queries, keys and weights are f16, sums f32. Tokens in no tile are not written. A token's result
 * depends on its own sequence only. Keys do not count in `bytes` and `flops`, since how many there are is known on the
 * device alone.
 */
export function attentionPrefill(options: AttentionPrefillOptions): Dispatch {
  const { q, kv, tokensMeta, sequences, blockTables, tiles, tileTokens, gate, y } = options;
  const { heads, kvHeads, headDim, scale, qOffset = 0, window = 0, softCap = 0 } = options;
  const cache = { kv, kv_scales: cacheScales(kv, q) };
  const tensors = { q, ...cache, tokens_meta: tokensMeta, sequences, block_tables: blockTables, tiles };
  const all = { ...tensors, gate: gate?.rows ?? q, y };
  const found = matchTensors(attentionPrefillSpec, all);
  check(options, found);
  return {
    spec: attentionPrefillSpec,
    file: "attention-prefill",
    constants: {
      FORMAT: formatCode[kv.dtype] ?? 0,
      Q_FORMAT: formatCode[q.dtype] ?? 0,
      Y_FORMAT: formatCode[y.dtype] ?? 0,
      GATE: gate ? 1 : 0,
      GATE_FORMAT: formatCode[all.gate.dtype] ?? 0,
      CAP: softCap > 0 ? 1 : 0,
    },
    replace: attentionConsts(headDim, tileTokens),
    tensors: all,
    params: {
      ...found,
      heads,
      kv_heads: kvHeads,
      q_offset: qOffset,
      gate_offset: gate?.offset ?? 0,
      window,
      scale,
      soft_cap: softCap,
    },
    workgroups: [heads, found.tiles, 1],
    bytes: found.tokens * heads * headDim * (bytesPerElement[q.dtype] + bytesPerElement[y.dtype]),
    flops: 0,
  };
}

function check(options: AttentionPrefillOptions, found: Readonly<Record<string, number>>): void {
  const { q, kv, gate, y, heads, kvHeads, headDim, tileTokens, qOffset = 0 } = options;
  const expect = (what: string, holds: boolean, got: number | string) => {
    if (!holds) throw new TypeError(`Cannot run attention-prefill: expected ${what}, got ${got}`);
  };
  const channels = heads * headDim;
  checkMultiple("attention-prefill", "heads", heads, kvHeads);
  expect(`headDim to be one of ${headDims.join(", ")}`, headDims.includes(headDim), headDim);
  expect(
    `tileTokens to be one of ${queryTileSizes.join(", ")}`,
    queryTileSizes.includes(tileTokens),
    tileTokens,
  );
  expect(`kv to be one of ${kvFormats.join(", ")}`, kvFormats.includes(kv.dtype), kv.dtype);
  checkCacheScales("attention-prefill", options, found);
  for (const { name, dtype } of [q, y]) expect(`${name} to be f32 or f16`, dtype !== "bf16", dtype);
  expect(`kv_channels = ${kvHeads * headDim}`, found.kv_channels === kvHeads * headDim, found.kv_channels);
  expect(`y_row = heads * headDim = ${channels}`, found.y_row === channels, found.y_row);
  const slices = [{ rows: q, offset: qOffset }, ...(gate ? [gate] : [])];
  for (const { rows, offset } of slices) {
    const { name, shape } = rows;
    checkMultiple("attention-prefill", `the row length of ${name}`, shape[1], 8);
    checkMultiple("attention-prefill", `the offset in ${name}`, offset, 8);
    expect(`${name} to have at least ${offset + channels} columns`, offset + channels <= shape[1], shape[1]);
  }
}
