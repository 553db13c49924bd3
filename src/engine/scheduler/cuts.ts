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

/** Up to which position a sequence cannot be cut along tokens. */
export function wholeEnd(policy: Pick<KvPolicy, "nonCausal" | "prefillCut">, sequence: Sequence): number {
  if (policy.nonCausal) return sequence.shared.prefixLength;
  return policy.prefillCut === "layers" ? sequence.request.promptIds.length : 0;
}

/** The next cut of a sequence whose known ids are to be computed, with room for `room` tokens; null for none. */
export function nextCut(sequence: Sequence, whole: number, room: number): Cut | null {
  const { computed: start, knownIds } = sequence;
  if (whole - start > room) return { kind: "layered", start, end: whole };
  if (room < 1) return null;
  return { kind: "main", start, end: Math.min(knownIds.length, start + room) };
}

/** The passes, at least one, of which the work of `tokens` tokens fits; `room` in tokens times passes. */
export function passesThatFit(tokens: number, room: number, passesLeft: number): number {
  return Math.min(passesLeft, Math.max(1, Math.floor(room / tokens)));
}
