/**
 * Who gets KV blocks when they are short: growth of a sequence, at the cost of others where that is fair.
 *
 * A sequence that is part of the step being planned keeps its blocks: the step reads them. A paused one, which makes
 * no progress, gives way to everybody; any other only to a sequence that goes before it.
 */
import type { KvPolicy } from "../kv-cache/aggregate.ts";
import type { KvManager } from "../kv-cache/kv-manager.ts";
import type { PlanDraft } from "./plan-draft.ts";
import type { Roster } from "./roster.ts";
import type { Sequence, SequenceState } from "./sequence.ts";

export interface Growth {
  sequence: Sequence;
  /** Positions that will be written. */
  range: { start: number; end: number };
  /** Whether running sequences that go after it may be preempted for it. */
  mayPreempt: boolean;
}

export class BlockSupply {
  readonly #kv: KvManager;
  readonly #policy: KvPolicy;
  readonly #roster: Roster;
  #preemptions = 0;
  #changes = 0;

  constructor({ kv, policy, roster }: { kv: KvManager; policy: KvPolicy; roster: Roster }) {
    this.#kv = kv;
    this.#policy = policy;
    this.#roster = roster;
  }

  /** Sequences that lost their blocks to others. */
  get preemptions(): number {
    return this.#preemptions;
  }

  /** Counts what may let a sequence start that could not before: while it stays, trying again is of no use. */
  get changes(): number {
    return this.#changes;
  }

  /** Makes the range writable, and puts the copies that takes into the draft; false when blocks are short. */
  grow(growth: Growth, draft: PlanDraft): boolean {
    for (;;) {
      const copies = this.#kv.grow(growth.sequence.kv, growth.range);
      if (copies) {
        draft.copy(copies);
        return true;
      }
      const victim = this.#victim(growth, draft);
      if (!victim) {
        draft.isShortOfBlocks = true;
        return false;
      }
      this.preempt(victim);
    }
  }

  /**
   * Whether blocks suffice for all that a sequence has to prefill, beside what others need to go on. One that starts
   * without would soon be preempted, and prefill in vain; so it starts without only where there are no others.
   */
  hasRoomFor(sequence: Sequence, draft: PlanDraft): boolean {
    for (;;) {
      const others = this.#roster.running.filter((other) => other !== sequence);
      if (others.length === 0 || this.#holds([sequence, ...others])) return true;
      const paused = this.pausedHolders(draft).find((other) => other !== sequence);
      if (!paused) {
        draft.isShortOfBlocks = true;
        return false;
      }
      this.preempt(paused);
    }
  }

  /** The sequence waits again, with what is known of its output. Ids on their way to it still count. */
  preempt(sequence: Sequence): void {
    this.#preemptions++;
    this.free(sequence, "preempted");
  }

  /** Gives all blocks of the sequence back. */
  free(sequence: Sequence, state: "preempted" | "finished"): void {
    this.#changes++;
    this.giveBack(sequence, state);
  }

  /** Gives back what was adopted just now: nothing has changed for others. */
  giveBack(sequence: Sequence, state: SequenceState): void {
    this.#kv.release(sequence.kv);
    sequence.reset(this.#kv.newSequence(), state);
  }

  /** Tells that there is more to be had otherwise: something cached, or a place in the batch. */
  touch(): void {
    this.#changes++;
  }

  /** Paused sequences that could make place, last first. */
  pausedHolders(draft: PlanDraft): Sequence[] {
    return this.#holders(draft).filter(({ isPaused }) => isPaused);
  }

  /** Windows need few blocks, whatever they have to run. */
  #holds(sequences: readonly Sequence[]): boolean {
    const needed = sequences.reduce((sum, sequence) => sum + this.#blocksAhead(sequence), 0);
    const { groups } = this.#kv.stats();
    return groups.every(
      ({ free, cached }, group) => this.#policy.groups[group].window !== null || free + cached >= needed,
    );
  }

  /** Blocks for the known tokens that are not computed yet, and one for what each answer says next. */
  #blocksAhead({ isPaused, knownIds, kv, answerCount }: Sequence): number {
    if (isPaused) return 0;
    const all = Math.ceil(knownIds.length / this.#policy.blockSize);
    return Math.max(0, all - kv.tables[0].length) + answerCount;
  }

  #victim({ sequence, mayPreempt }: Growth, draft: PlanDraft): Sequence | undefined {
    const others = this.#holders(draft).filter((other) => other !== sequence);
    const paused = others.find(({ isPaused }) => isPaused);
    if (paused || !mayPreempt) return paused;
    return others.find((other) => this.#roster.isBefore(sequence, other));
  }

  /** Those that are not in the draft, last first. */
  #holders(draft: PlanDraft): Sequence[] {
    return this.#roster.running.filter((sequence) => !draft.sequences.has(sequence)).reverse();
  }
}
