/**
 * How much of a prefill one step runs.
 *
 * Owns the rule that a bidirectional prefix is never cut along tokens: it runs whole, or along layers. What comes
 * after it, the rest of a prompt and the replay of an output, is causal and may be cut anywhere.
 */
import type { KvPolicy } from "../kv-cache/aggregate.ts";
import type { Sequence } from "./sequence.ts";

/** "main": these tokens through all passes. "layered": some passes at a time. Positions, the end excluded. */
export interface Cut {
  kind: "main" | "layered";
  start: number;
  end: number;
}

/**
 * Up to which position a sequence cannot be cut along tokens. One whose prompt's logits are wanted always can: their
 * rows must fit a step. It has no bidirectional prefix.
 */
export function wholeEnd(policy: Pick<KvPolicy, "nonCausal" | "prefillCut">, sequence: Sequence): number {
  if (policy.nonCausal || sequence.request.promptOutput === "logits") return sequence.shared.prefixLength;
  return policy.prefillCut === "layers" ? sequence.request.promptIds.length : 0;
}

/** What a step has left. */
export interface Room {
  tokens: number;
  /** Rows of logits of prompts' own tokens. */
  promptRows: number;
}

/** The next cut of a sequence whose known ids are to be computed; null for none. */
export function nextCut(sequence: Sequence, whole: number, { tokens, promptRows }: Room): Cut | null {
  const { computed: start, knownIds } = sequence;
  if (whole - start > tokens) return { kind: "layered", start, end: whole };
  const end = Math.min(knownIds.length, start + tokens, rowsEnd(sequence, promptRows));
  return end > start ? { kind: "main", start, end } : null;
}

/** Where the rows of a prompt whose logits are wanted run out. */
function rowsEnd({ request, unobserved }: Sequence, promptRows: number): number {
  if (request.promptOutput !== "logits" || !unobserved) return Infinity;
  const end = unobserved.start + promptRows;
  return end < unobserved.end ? end : Infinity;
}

/** The passes, at least one, of which the work of `tokens` tokens fits; `room` in tokens times passes. */
export function passesThatFit(tokens: number, room: number, passesLeft: number): number {
  return Math.min(passesLeft, Math.max(1, Math.floor(room / tokens)));
}
