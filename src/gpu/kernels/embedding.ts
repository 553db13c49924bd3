import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { bytesPerElement, type Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const embeddingSpec: KernelSpec = {
  name: "embedding",
  files: ["embedding"],
  params: { tokens: "u32", channels: "u32", vocab: "u32", sampled_rows: "u32", scale: "f32" },
  tensors: {
    ids: tensor("read", "u32", "tokens"),
    sampled: tensor("read", "u32", "sampled_rows"),
    table: tensor("read", "packed", "vocab channels"),
    y: tensor("read_write", "f32", "tokens channels"),
  },
};

/** In `ids`: the rest of the number is a row of `sampled`, which holds the id. */
export const ID_FROM_SAMPLED = 0x80000000;

export interface EmbeddingOptions {
  /** u32 [tokens]: rows of the table, or `ID_FROM_SAMPLED` + a row of `sampled`. Must be in range. */
  ids: Tensor;
  /** [vocab, channels]: the embedding matrix, or f32 activations of which rows are gathered. */
  table: Tensor;
  /** f32 [tokens, channels] */
  y: Tensor;
  /** u32 [sampled_rows]: needed only if an id refers to it. */
  sampled?: Tensor;
  /** 1 by default. */
  scale?: number;
}

/** y[t] = scale * table[id(t)]; channels must be a multiple of 8, and y must not share memory with the table. */
export function embedding(traits: GpuTraits, options: EmbeddingOptions): Dispatch {
  const { ids, table, y, scale = 1 } = options;
  const tensors = { ids, sampled: options.sampled ?? ids, table, y };
  const { tokens, channels, vocab, sampled_rows } = matchTensors(embeddingSpec, tensors);
  checkMultiple("embedding", "channels", channels, 8);
  const { lanes, workgroups } = tokenGrid(traits, tokens, channels / 8);
  return {
    spec: embeddingSpec,
    file: "embedding",
    constants: { LANES: lanes, FORMAT: formatCode[table.dtype] ?? 0 },
    tensors,
    params: { tokens, channels, vocab, sampled_rows, scale },
    workgroups,
    bytes: tokens * channels * (bytesPerElement[table.dtype] + 4) + 4 * tokens,
    flops: tokens * channels,
  };
}
