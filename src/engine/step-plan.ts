/** One step as data: which tokens of which sequences run, and what is wanted of them. Plain, so it can be tested. */

/** How a row of logits becomes an id; see `SamplingParams` for the meaning of the fields. */
export interface RowSampling {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: bigint;
  /** Tokens this request has generated before: the counter of its random numbers. */
  step: number;
}

/** What of a prompt's own tokens may be wanted beside the answers: the logits of each, or the sum of their final states. */
export type PromptOutput = "logits" | "states";

/** Positions start <= p < end of a prompt whose output a step gives; they are part of the rectangle that runs them. */
export interface Observation {
  output: PromptOutput;
  start: number;
  end: number;
}

/**
 * Consecutive tokens of one sequence, run through layer passes: the unit of what the scheduler plans. A decode step
 * is one token wide; a chunk of a prompt, a whole prefix and the replay of an output are wider.
 *
 * Every query of it sees, in each layer, all keys that the prefix rule lets it see: those before `start` are in the
 * blocks already. `tokenIds` of a bidirectional prefix therefore always hold all of it (or its last token again).
 */
export interface Rectangle {
  requestId: string;
  /** Which of the request's answers; a prefill that samples for several has the first. */
  choice: number;
  /** Ids in order; `sampledRow(r)` stands for what row r of the previous step's main batch sampled. */
  tokenIds: readonly number[];
  /** Position of the first of them. */
  start: number;
  /** Keys and values of positions before it are not written (null block): they are there, and blocks are shared. */
  writeStart: number;
  /** P: the first P tokens of the sequence see each other in both directions. Fixed for a sequence's life. */
  prefixLength: number;
  /** By group of layers: physical KV blocks in order, 0 where no query can see them; they cover the last token here. */
  tables: readonly (readonly number[])[];
  /** Which of these tokens' logits are computed. "last" gives a row for each of `sampling`, at least one. */
  logits: "none" | "last" | "all";
  /**
   * Rows to sample. The n answers of a request are sampled from the last token of its one prefill: entry i is for
   * answer `choice + i`. Rows of a batch are in order of its rectangles, and in these the order of entries.
   */
  sampling: readonly RowSampling[];
  /** Left out, nothing. Rows of logits that it gives come after all other rows of the batch, and none is sampled. */
  observed?: Observation;
}

/** A rectangle run through passes `from` to `to` only; its activations stay on the device until the rest is run. */
export interface LayeredStep {
  rectangle: Rectangle;
  /** 0: the embedding goes first. Otherwise the step goes on where the last layered one, of the same tokens, ended. */
  from: number;
  /** The number of all passes: the head comes last, and rows are sampled. */
  to: number;
}

/** What one submission to the device does, in the order of these fields. */
export interface StepPlan {
  /** 1 for the first plan, then consecutive. */
  id: number;
  /** Blocks to copy, one after the other, before anything is written. */
  copies: readonly { group: number; from: number; to: number }[];
  /** Run as one ragged batch through all passes. */
  main: readonly Rectangle[];
  /** A batch of its own. Its sampled rows come after those of `main`, and no `sampledRow` refers to them. */
  layered: LayeredStep | null;
  /** What the step costs, in tokens run through all passes; T tokens through k of K passes cost T * k / K. */
  cost: number;
}

/** Stands for a token id that is not known yet: the one that row `row` of the previous step samples. */
export function sampledRow(row: number): number {
  return -1 - row;
}

/** The row that `sampledRow` was given, or null for an ordinary id. */
export function rowOfSampled(id: number): number | null {
  return id < 0 ? -1 - id : null;
}

export function tokenCount(batch: readonly Rectangle[]): number {
  return batch.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
}

/** Rows of logits that a rectangle asks for, without those of its prompt that are observed. */
export function rectangleRows({ logits, sampling, tokenIds }: Rectangle): number {
  if (logits === "none") return 0;
  return logits === "all" ? tokenIds.length : Math.max(1, sampling.length);
}

export function rowCount(batch: readonly Rectangle[]): number {
  return batch.reduce((sum, rectangle) => sum + rectangleRows(rectangle), 0);
}

/** Rows of logits that a rectangle gives of its prompt, beside the others. */
export function observedRows({ observed }: Rectangle): number {
  return observed?.output === "logits" ? observed.end - observed.start : 0;
}

/** Whether a rectangle gives the sum of states of its prompt. */
export function isPooled({ observed }: Rectangle): boolean {
  return observed?.output === "states";
}

export function observedRowCount(batch: readonly Rectangle[]): number {
  return batch.reduce((sum, rectangle) => sum + observedRows(rectangle), 0);
}
