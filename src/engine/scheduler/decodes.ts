/** Decode steps: one token for every sequence that has its prompt behind it. They go before all prefills. */
import type { BlockSupply } from "./block-supply.ts";
import type { PlanDraft } from "./plan-draft.ts";
import type { Roster } from "./roster.ts";
import type { Sequence } from "./sequence.ts";

export interface DecodeContext {
  roster: Roster;
  supply: BlockSupply;
  /** Tokens of the budget that are left for prefills. */
  reservedTokens: number;
}

/** Puts the sequences that can go on into the draft, as many as the budget allows. */
export function planDecodes(draft: PlanDraft, { roster, supply, reservedTokens }: DecodeContext): void {
  const lastPlan = draft.id - 1;
  const ready = roster.all.filter((sequence) => isReady(sequence, lastPlan));
  for (const sequence of inTurn(ready, draft.tokenRoom - reservedTokens)) {
    if (draft.tokenRoom <= reservedTokens) return;
    // One that gave its blocks to a sequence before it is not decoding any more.
    if (sequence.state === "decoding") planDecode(sequence, draft, supply);
  }
}

function planDecode(sequence: Sequence, draft: PlanDraft, supply: BlockSupply): void {
  const range = { start: sequence.computed, end: sequence.computed + 1 };
  if (!supply.grow({ sequence, range, mayPreempt: true }, draft)) return;
  draft.addDecode(sequence, sequence.pending.at(-1)?.row ?? null);
  sequence.computed++;
  sequence.lastPlan = draft.id;
}

/** Whether its next token can be fed: a known id, or one that the last step's main batch leaves on the device. */
function isReady(sequence: Sequence, lastPlan: number): boolean {
  const { state, isPaused, isHeld, pending, request, shared, sampledCount } = sequence;
  if (state !== "decoding" || isPaused || isHeld || sampledCount >= shared.outputTokensMax) return false;
  const last = pending.at(-1);
  if (!last) return true;
  return !request.needsKnownIds && last.plan === lastPlan && last.row !== null;
}

/** In the order of service; when there are more than fit, those that waited longest go first. */
function inTurn(ready: readonly Sequence[], room: number): readonly Sequence[] {
  return ready.length <= room ? ready : ready.toSorted((a, b) => a.lastPlan - b.lastPlan);
}
