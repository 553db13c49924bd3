/**
 * A ragged batch over a paged cache, for attention tests: random sequences whose blocks lie shuffled in a cache that
 * holds NaN wherever nothing was written, and the float64 reference on the values as the cache rounds them.
 */
import type { AttentionOptions } from "../../src/gpu/kernels/attention.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import type { Dtype, Tensor } from "../../src/gpu/tensor.ts";
import { normals, output, rounded, uniforms, upload } from "./gpu.ts";

/** The queries are the positions [firstQuery, context). Equal seeds give equal queries, keys and values. */
export interface Sequence {
  seed: number;
  prefix: number;
  context: number;
  firstQuery: number;
}

export interface Geometry {
  heads: number;
  kvHeads: number;
  headDim: number;
  blockSize: number;
  dtype: Dtype;
  scale: number;
  window?: number;
  softCap?: number;
}

export interface Batch {
  options: AttentionOptions;
  /** [tokens, heads * headDim] */
  expected: Float64Array;
  /** Of each token. */
  tokens: readonly TokenValues[];
}

interface TokenValues {
  position: number;
  slot: number;
  /** [heads * headDim], and [kvHeads * headDim] as the cache rounds them. */
  q: Float64Array;
  k: Float64Array;
  v: Float64Array;
}

interface Values {
  q: Float64Array;
  k: Float64Array;
  v: Float64Array;
}

const qOffset = 8; // columns before the queries, as when they share rows with a gate

export function pagedBatch(gpu: Gpu, geometry: Geometry, sequences: readonly Sequence[]): Batch {
  const values = sequences.map((sequence) => valuesOf(geometry, sequence));
  const { tables, blocks, width } = shuffledBlocks(geometry, sequences);
  const { heads, headDim, blockSize, kvHeads, scale, window, softCap } = geometry;
  const queries = sequences.flatMap(({ firstQuery, context }, s) =>
    Array.from({ length: context - firstQuery }, (_, i) => ({ s, position: firstQuery + i })),
  );
  const tokens = queries.length;
  const row = heads * headDim;
  const q = new Float64Array(tokens * (row + 2 * qOffset)).fill(NaN);
  const meta = queries.flatMap(({ s, position }, t) => {
    q.set(values[s].q.subarray(position * row, (position + 1) * row), t * (row + 2 * qOffset) + qOffset);
    return [position, slotOf(tables[s], blockSize, position), s, 0];
  });
  const info = sequences.flatMap(({ prefix, context }) => [prefix, context, 0, 0]);
  const options: AttentionOptions = {
    q: upload(gpu, "q", [tokens, row + 2 * qOffset], q),
    qOffset,
    kv: uploadCache(gpu, geometry, { values, tables, blocks }),
    tokensMeta: upload(gpu, "tokens_meta", [tokens, 4], meta, "u32"),
    sequences: upload(gpu, "sequences", [sequences.length, 4], info, "u32"),
    blockTables: upload(gpu, "block_tables", [sequences.length, width], tables.flat(), "u32"),
    y: output(gpu, "y", [tokens, row]),
    heads,
    kvHeads,
    headDim,
    scale,
    window,
    softCap,
  };
  const expected = queries.flatMap(({ s, position }) => [
    ...reference(geometry, sequences[s], values[s], position),
  ]);
  const ofTokens = queries.map(({ s, position }) => {
    const at = (all: Float64Array, width: number) => all.slice(position * width, (position + 1) * width);
    const { q, k, v } = values[s];
    const slot = slotOf(tables[s], blockSize, position);
    return { position, slot, q: at(q, row), k: at(k, kvHeads * headDim), v: at(v, kvHeads * headDim) };
  });
  return { options, expected: Float64Array.from(expected), tokens: ofTokens };
}

/** Keys and values are rounded as the cache does; per position: [heads, headDim] and [kvHeads, headDim]. */
function valuesOf({ heads, kvHeads, headDim, dtype }: Geometry, { seed, context }: Sequence): Values {
  const count = context * headDim;
  const stored = (at: number) => {
    const values = normals(3 * seed + at, count * kvHeads);
    return dtype === "i8" ? timesScales(integersOf(values, headDim), headDim) : rounded(values, dtype);
  };
  return { q: rounded(normals(3 * seed, count * heads), "f32"), k: stored(1), v: stored(2) };
}

interface Integers {
  integers: Float64Array;
  /** One a head. */
  scales: Float64Array;
}

/** Each head's values as integers up to 127, and a float32 to multiply them with. */
function integersOf(values: Float64Array, headDim: number): Integers {
  const scales = Float64Array.from({ length: values.length / headDim }, (_, head) => {
    const members = values.subarray(head * headDim, (head + 1) * headDim);
    return Math.fround(members.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127);
  });
  return { scales, integers: values.map((value, i) => Math.round(value / scales[Math.floor(i / headDim)])) };
}

function timesScales({ integers, scales }: Integers, headDim: number): Float64Array {
  return integers.map((integer, i) => integer * scales[Math.floor(i / headDim)]);
}

/** Physical blocks in random order; table entries behind a sequence's last block point to block 0, which is NaN. */
function shuffledBlocks({ blockSize }: Geometry, sequences: readonly Sequence[]) {
  const counts = sequences.map(({ context }) => Math.ceil(context / blockSize));
  const used = counts.reduce((sum, count) => sum + count, 0);
  const random = uniforms(used);
  const order = Array.from({ length: used }, (_, i) => ({ block: i + 1, key: random() }));
  const free = order.sort((a, b) => a.key - b.key).map(({ block }) => block);
  const width = Math.max(...counts) + 1;
  const tables = counts.map((count) => [
    ...free.splice(0, count),
    ...Array.from({ length: width - count }, () => 0),
  ]);
  return { tables, blocks: used + 2, width };
}

function slotOf(table: readonly number[], blockSize: number, position: number): number {
  return table[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
}

interface Placed {
  values: Pick<Values, "k" | "v">[];
  tables: number[][];
  blocks: number;
}

/** Where nothing was written the cache is NaN; of i8 the scales are. */
function uploadCache(gpu: Gpu, { kvHeads, headDim, blockSize, dtype }: Geometry, placed: Placed): Tensor {
  const { values, blocks } = placed;
  const channels = kvHeads * headDim;
  const shape = [blocks, 2, blockSize, channels];
  if (dtype !== "i8") return upload(gpu, "kv", shape, cache(channels, blockSize, placed), dtype);
  const both = values.map(({ k, v }) => ({ k: integersOf(k, headDim), v: integersOf(v, headDim) }));
  const ofKind = (kind: keyof Integers) => both.map(({ k, v }) => ({ k: k[kind], v: v[kind] }));
  const integers = cache(channels, blockSize, { ...placed, values: ofKind("integers") });
  const scales = cache(kvHeads, blockSize, { ...placed, values: ofKind("scales") });
  return {
    ...upload(gpu, "kv", shape, integers, "i8"),
    scales: upload(gpu, "kv.scales", [blocks, 2, blockSize, kvHeads], scales),
  };
}

/** [blocks, 2, blockSize, channels] */
function cache(channels: number, blockSize: number, { values, tables, blocks }: Placed): Float64Array {
  const kv = new Float64Array(blocks * 2 * blockSize * channels).fill(NaN);
  values.forEach(({ k, v }, s) => {
    for (let position = 0; position < k.length / channels; position++) {
      const slot = slotOf(tables[s], blockSize, position);
      [k, v].forEach((source, part) => {
        const row = (Math.floor(slot / blockSize) * 2 + part) * blockSize + (slot % blockSize);
        kv.set(source.subarray(position * channels, (position + 1) * channels), row * channels);
      });
    }
  });
  return kv;
}

/** The rule as it is stated, key by key. */
function isVisible({ prefix, context }: Sequence, window: number, i: number, j: number): boolean {
  const inWindow = window === 0 || Math.abs(i - j) < window;
  return j < context && (j <= i || (i < prefix && j < prefix)) && inWindow;
}

/** [heads, headDim] of one query. */
function reference(geometry: Geometry, sequence: Sequence, values: Values, position: number): Float64Array {
  const { heads, kvHeads, headDim, scale, window = 0, softCap = 0 } = geometry;
  const y = new Float64Array(heads * headDim);
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / (heads / kvHeads));
    const query = values.q.subarray((position * heads + head) * headDim);
    const keys = Array.from({ length: sequence.context }, (_, j) => j).filter((j) =>
      isVisible(sequence, window, position, j),
    );
    const scores = keys.map((j) => {
      let score = 0;
      for (let c = 0; c < headDim; c++) score += query[c] * values.k[(j * kvHeads + kvHead) * headDim + c];
      return softCap === 0 ? score * scale : softCap * Math.tanh((score * scale) / softCap);
    });
    const most = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - most));
    const sum = weights.reduce((a, b) => a + b, 0);
    keys.forEach((j, n) => {
      for (let c = 0; c < headDim; c++) {
        y[head * headDim + c] += (weights[n] / sum) * values.v[(j * kvHeads + kvHead) * headDim + c];
      }
    });
  }
  return y;
}
