import type { PromptOutput, RowSampling } from "../step-plan.ts";

/** A request as the scheduler knows it: ids and limits. Texts, grammars and penalties are other people's business. */
export interface SchedulerRequest {
  id: string;
  /** At least one id. */
  promptIds: readonly number[];
  /** How many leading prompt tokens see each other in both directions; a causal model takes it as 0. */
  prefixLength: number;
  /** Requests share cached prefixes only within the same salt. */
  cacheSalt: string;
  /** Smaller goes first, where the scheduler orders by priority. */
  priority: number;
  /** Most ids of an answer, at least 1. */
  maxTokens: number;
  /** An answer does not end by a stop id before it has this many; banning them is the sampler's business. */
  minTokens: number;
  /** Ids that end an answer, and are the last of it; the model's own end id included unless it is to be ignored. */
  stopTokenIds: readonly number[];
  /** How to sample each of the request's answers; they share one prefill. At least one. */
  answers: readonly Omit<RowSampling, "step">[];
  /** The next id can be sampled only when the last one is known to the host (a grammar's mask depends on it). */
  needsKnownIds: boolean;
  /**
   * Once an id of an answer is known, its next one can be sampled only after `release`: something outside has to follow
   * the answer first (a grammar). The first id can be sampled at once. Goes with `needsKnownIds`.
   */
  isGuided?: boolean;
  /** What each of the prompt's own tokens gives, none left out and none twice; left out, nothing is wanted of them. */
  promptOutput?: PromptOutput;
  /** On the clock that `schedule` is given; null for none. */
  deadlineMs: number | null;
}

/** What became of a request. Answers are numbered by `choice`. */
export type SchedulerEvent =
  | { type: "tokens"; requestId: string; choice: number; ids: number[] }
  | { type: "finish"; requestId: string; choice: number; reason: "stop" | "length" }
  /** Its deadline has passed; none of its answers goes on. */
  | { type: "expired"; requestId: string };

export interface SchedulerLimits {
  /** Work of a step, in tokens run through all passes. */
  maxBatchedTokens: number;
  /** Sequences that hold KV and may be part of a step; also the most rows a step samples. */
  maxSequences: number;
  /** Most rows of logits of prompts' own tokens in a step; left out, all its tokens may have one. */
  promptRowsMax?: number;
  /** Most tokens of prompt and answer together. */
  maxModelLen: number;
  /** Layer passes of the model. */
  passCount: number;
  /** After so many steps that decodes filled, a prefill gets its share anyway. */
  starvationStepsMax: number;
}
