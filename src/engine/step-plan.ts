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

/** A run of consecutive tokens of one sequence. */
export interface SequenceStep {
  /** Ids in order; `sampledRow(r)` stands for what row r of the previous step sampled. */
  tokenIds: readonly number[];
  /** Position of the first of them. */
  start: number;
  /** P: the first P tokens of the sequence see each other in both directions. Fixed for a sequence's life. */
  prefixLength: number;
  /** Physical KV blocks, in order, covering every position up to the last token here. */
  blocks: readonly number[];
  /** Which of these tokens' logits are computed; each is a row of the step, in order of sequences and tokens. */
  logits: "none" | "last" | "all";
  /** Samples an id from each of those rows. */
  sampling?: RowSampling;
}

/** Stands for a token id that is not known yet: the one that row `row` of the previous step samples. */
export function sampledRow(row: number): number {
  return -1 - row;
}

/** The row that `sampledRow` was given, or null for an ordinary id. */
export function rowOfSampled(id: number): number | null {
  return id < 0 ? -1 - id : null;
}

export function tokenCount(plan: readonly SequenceStep[]): number {
  return plan.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
}

export function rowCount(plan: readonly SequenceStep[]): number {
  const rows = { none: () => 0, last: () => 1, all: (step: SequenceStep) => step.tokenIds.length };
  return plan.reduce((sum, step) => sum + rows[step.logits](step), 0);
}
