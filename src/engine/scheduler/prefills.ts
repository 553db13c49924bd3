/**
 * Prefills: prompts, and what a preempted sequence has to run again, cut to what decodes leave of the budget.
 *
 * First the prefill whose layers are being run one part a step, of which there is at most one; then all others in the
 * order of service. One that cannot start for want of blocks or places keeps later ones from starting before it.
 */
import type { KvPolicy } from "../kv-cache/aggregate.ts";
import type { KvManager } from "../kv-cache/kv-manager.ts";
import type { BlockSupply } from "./block-supply.ts";
import { type Cut, nextCut, passesThatFit, wholeEnd } from "./cuts.ts";
import type { PlanDraft } from "./plan-draft.ts";
import type { SchedulerLimits } from "./request.ts";
import type { Roster } from "./roster.ts";
import { reusableQuery, type Sequence } from "./sequence.ts";

/** "short": of blocks or places. "later": of budget, or of a free place for a layered prefill. */
type Outcome = "planned" | "short" | "later";

export interface PrefillOptions {
  kv: KvManager;
  policy: KvPolicy;
  limits: SchedulerLimits;
  roster: Roster;
  supply: BlockSupply;
}

/** What the prefix cache was asked for and what it had, in tokens. */
export interface PrefixTokens {
  queryTokens: number;
  hitTokens: number;
}

export class PrefillPlanner {
  readonly #options: PrefillOptions;
  #layered: { sequence: Sequence; end: number; nextPass: number } | null = null;
  /** Why a sequence could not start, and at which count of the supply's changes. */
  readonly #failures = new WeakMap<Sequence, { changes: number; outcome: Outcome; tokens: number }>();

  #prefixTokens: PrefixTokens = { queryTokens: 0, hitTokens: 0 };

  constructor(options: PrefillOptions) {
    this.#options = options;
  }

  /** Since the start; look-ups of sequences that could not start for want of room are not counted. */
  get prefixTokens(): PrefixTokens {
    return this.#prefixTokens;
  }

  /** The sequence some of whose layer passes have run. */
  get layeredSequence(): Sequence | null {
    return this.#layered?.sequence ?? null;
  }

  /** Whether any prefill waits for nothing but its turn. */
  isWanted(): boolean {
    return this.#options.roster.all.some(isCandidate);
  }

  plan(draft: PlanDraft): void {
    if (this.#layered?.sequence.state !== "prefilling") this.#layered = null;
    if (this.#layered && draft.room > 0) this.#planPasses(draft, this.#layered);
    let mayStart = true;
    for (const sequence of this.#options.roster.all.filter(isCandidate)) {
      if (draft.room <= 0) return;
      if (draft.sequences.has(sequence) || (!sequence.isRunning && !mayStart)) continue;
      const outcome = sequence.isRunning ? this.#planCut(sequence, draft) : this.#start(sequence, draft);
      if (outcome === "short") mayStart = false;
    }
  }

  #start(sequence: Sequence, draft: PlanDraft): Outcome {
    const { supply } = this.#options;
    const known = this.#knownFailure(sequence, draft);
    if (known) return known;
    if (!this.#makePlace(sequence, draft)) return "short";
    const { state } = sequence;
    this.#adopt(sequence);
    const hitTokens = sequence.computed;
    const tokens = wholeEnd(this.#options.policy, sequence) - hitTokens;
    const outcome = supply.hasRoomFor(sequence, draft) ? this.#planCut(sequence, draft) : "short";
    if (outcome === "planned") {
      this.#countLookup(sequence, hitTokens);
      return outcome;
    }
    supply.giveBack(sequence, state);
    this.#failures.set(sequence, { changes: supply.changes, outcome, tokens });
    return outcome;
  }

  #countLookup({ knownIds }: Sequence, hitTokens: number): void {
    if (this.#options.policy.prefixReuse === "none") return;
    const { queryTokens, hitTokens: before } = this.#prefixTokens;
    this.#prefixTokens = { queryTokens: queryTokens + knownIds.length, hitTokens: before + hitTokens };
  }

  /** A look-up and an attempt cost time; they are not repeated while nothing can have changed. */
  #knownFailure(sequence: Sequence, draft: PlanDraft): Outcome | null {
    const failure = this.#failures.get(sequence);
    if (failure?.changes !== this.#options.supply.changes) return null;
    if (failure.outcome === "short") {
      draft.isShortOfBlocks = true;
      return "short";
    }
    return this.#hasLayered(draft) && failure.tokens > draft.tokenRoom ? "later" : null;
  }

  /** Whether the one place for a layered prefill is taken, by one that goes on or one that ends with this step. */
  #hasLayered(draft: PlanDraft): boolean {
    return this.#layered !== null || draft.hasLayered;
  }

  /** Whether there are places in the batch; paused sequences give theirs up. */
  #makePlace({ answerCount }: Sequence, draft: PlanDraft): boolean {
    const { limits, roster, supply } = this.#options;
    const paused = supply.pausedHolders(draft);
    const reclaimable = paused.reduce((sum, holder) => sum + holder.answerCount, 0);
    if (roster.slotsUsed - reclaimable + answerCount > limits.maxSequences) return false;
    for (const holder of paused) {
      if (roster.slotsUsed + answerCount <= limits.maxSequences) break;
      supply.preempt(holder);
    }
    return true;
  }

  /** Starts from what the prefix cache has. */
  #adopt(sequence: Sequence): void {
    const hit = this.#options.kv.adopt(sequence.kv, reusableQuery(sequence));
    const hasMore = sequence.knownIds.length > hit.tokens + 1;
    sequence.state = "prefilling";
    // The last prefix token is run again for its logits, which only matter if nothing follows it.
    sequence.computed = hit.isLastRecomputed && hasMore ? hit.tokens + 1 : hit.tokens;
    sequence.writeStart = hit.isLastRecomputed ? hit.tokens + 1 : hit.tokens;
  }

  #planCut(sequence: Sequence, draft: PlanDraft): Outcome {
    const cut = nextCut(sequence, wholeEnd(this.#options.policy, sequence), draft.cutRoom);
    if (!cut || (cut.kind === "layered" && this.#hasLayered(draft))) return "later";
    const end = this.#grow(sequence, cut, draft);
    if (end === null) return "short";
    if (cut.kind === "layered") {
      this.#layered = { sequence, end, nextPass: 0 };
      this.#planPasses(draft, this.#layered);
    } else {
      const row = draft.addPrefill(sequence, end);
      this.#advance(sequence, end, draft, row);
    }
    return "planned";
  }

  /** Makes room in KV for the cut, or for a shorter one where that is allowed; returns its end, null for none. */
  #grow(sequence: Sequence, cut: Cut, draft: PlanDraft): number | null {
    const whole = wholeEnd(this.#options.policy, sequence);
    const start = Math.max(cut.start, sequence.writeStart);
    for (let end = cut.end; ; end = cut.start + Math.floor((end - cut.start) / 2)) {
      if (end <= cut.start || end < Math.min(whole, cut.end)) return null;
      const range = { start, end: Math.max(start, end) };
      if (this.#options.supply.grow({ sequence, range, mayPreempt: false }, draft)) return end;
    }
  }

  #planPasses(draft: PlanDraft, layered: { sequence: Sequence; end: number; nextPass: number }): void {
    const { passCount } = this.#options.limits;
    const { sequence, end, nextPass: from } = layered;
    const to = from + passesThatFit(end - sequence.computed, draft.room, passCount - from);
    draft.addLayered(sequence, end, { from, to });
    layered.nextPass = to;
    sequence.lastPlan = draft.id;
    if (to < passCount) return;
    this.#layered = null;
    this.#advance(sequence, end, draft, null);
  }

  /** What is computed grows; behind the last known token the sequence decodes, and its answers part. */
  #advance(sequence: Sequence, end: number, draft: PlanDraft, row: number | null): void {
    sequence.computed = end;
    sequence.shared.observedEnd = Math.max(sequence.shared.observedEnd, end);
    sequence.lastPlan = draft.id;
    if (end < sequence.knownIds.length) return;
    sequence.state = "decoding";
    const { answerCount, choice } = sequence;
    sequence.answerCount = 1;
    draft.expect(sequence, row);
    for (let index = 1; index < answerCount; index++) {
      const fork = sequence.fork(this.#options.kv.fork(sequence.kv), choice + index);
      this.#options.roster.insert(fork);
      draft.expect(fork, row === null ? null : row + index);
    }
  }
}

function isCandidate({ state, isPaused, isHeld, pending }: Sequence): boolean {
  return state !== "decoding" && !isPaused && !isHeld && pending.length === 0;
}
