/**
 * What a layer is given to run: the step's inputs on the device, scratch memory, and a place to put dispatches.
 * Layers record; they never submit, wait or look at values.
 */
import type { GpuTraits } from "../../gpu/gpu.ts";
import type { Dispatch } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ResidualStream } from "./residual-stream.ts";
import type { Workspace } from "./workspace.ts";

/** Tensors of one step, narrowed to its token, sequence and logits-row counts. */
export interface StepTensors {
  /** u32 [tiles, 4]: runs of consecutive tokens of one sequence, from `queryTiles`, cut to at most so many. */
  queryTiles: Tensor;
  queryTileTokens: number;
  /** u32 [tokens]; the top bit marks a reference to a row of `sampled`. */
  tokenIds: Tensor;
  /** u32 [sequences, 4]: prefix length, context length, 0, 0; what metadata of each kind says of a sequence. */
  sequences: Record<MetadataKind, Tensor>;
  /** Where keys and values are, by KV group. */
  groups: readonly GroupTensors[];
  /** u32 [rows]: tokens whose logits are wanted. */
  logitRows: Tensor;
  /** u32 [rows, 8]: sampling parameters of each logits row. */
  settings: Tensor;
  /** u32 [rows]: ids sampled by this step, and until then by the one before. */
  sampled: Tensor;
  /** u32 [pools, 2]: first token and count of the tokens whose final states are summed up. */
  pools: Tensor;
}

/** What the layers of one KV group, which share a block table, are given. */
export interface GroupTensors {
  /** u32 [tokens, 4]: position, KV slot (none: not written), sequence, 0. */
  tokensMeta: Tensor;
  /** u32 [sequences, blocks]: physical block of each logical block. */
  blockTables: Tensor;
}

/** Whether attention metadata carries a sequence's bidirectional prefix, or is causal whatever the sequence says. */
export type MetadataKind = "causal" | "prefix";

export interface ForwardContext {
  readonly traits: GpuTraits;
  readonly recorder: { add(dispatch: Dispatch): void };
  readonly stream: ResidualStream;
  /** Scratch with a row for each token of the step. */
  readonly workspace: Workspace;
  /** Scratch with a row for each logits row. */
  readonly rowSpace: Workspace;
  readonly step: StepTensors;
  /** Number of tokens in this step. */
  readonly tokens: number;
  /** At least the keys that a query of this step may see; a power of two, so that few values come up. */
  readonly keysBound: number;
  /** Number of logits rows in this step. */
  readonly rows: number;
  /** [blocks, 2, block size, kv channels] of each KV slot. */
  readonly kv: readonly Tensor[];
  /** The KV group of each slot. */
  readonly layerGroups: readonly number[];
}
