/**
 * A ragged batch over a paged cache, for attention tests: random sequences whose blocks lie shuffled in a cache that
 * holds NaN wherever nothing was written, and the float64 reference on the values as the cache rounds them.
 */
import type { AttentionOptions } from "../../src/gpu/kernels/attention.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import type { Dtype } from "../../src/gpu/tensor.ts";
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
  const { heads, headDim, blockSize, kvHeads, dtype, ...rest } = geometry;
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
    kv: upload(
      gpu,
      "kv",
      [blocks, 2, blockSize, kvHeads * headDim],
      cache(geometry, { values, tables, blocks }),
      dtype,
    ),
    tokensMeta: upload(gpu, "tokens_meta", [tokens, 4], meta, "u32"),
    sequences: upload(gpu, "sequences", [sequences.length, 4], info, "u32"),
    blockTables: upload(gpu, "block_tables", [sequences.length, width], tables.flat(), "u32"),
    y: output(gpu, "y", [tokens, row]),
    heads,
    kvHeads,
    headDim,
    ...rest,
  };
  const expected = queries.flatMap(({ s, position }) => [
    ...reference(geometry, sequences[s], values[s], position),
  ]);
  return { options, expected: Float64Array.from(expected) };
}

/** Keys and values are rounded as the cache does; per position: [heads, headDim] and [kvHeads, headDim]. */
function valuesOf({ heads, kvHeads, headDim, dtype }: Geometry, { seed, context }: Sequence): Values {
  const count = context * headDim;
  return {
    q: rounded(normals(3 * seed, count * heads), "f32"),
    k: rounded(normals(3 * seed + 1, count * kvHeads), dtype),
    v: rounded(normals(3 * seed + 2, count * kvHeads), dtype),
  };
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

function cache(
  { kvHeads, headDim, blockSize }: Geometry,
  { values, tables, blocks }: { values: Values[]; tables: number[][]; blocks: number },
): Float64Array {
  const channels = kvHeads * headDim;
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
