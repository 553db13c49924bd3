import type { Sequence } from "./sequence.ts";

export const orderings = ["fcfs", "priority"] as const;
export type Ordering = (typeof orderings)[number];

/** Negative when `a` goes before `b`. Total: no two sequences are equal, and a preempted one keeps its place. */
export function compareSequences(ordering: Ordering, a: Sequence, b: Sequence): number {
  const byPriority = ordering === "priority" ? a.request.priority - b.request.priority : 0;
  return byPriority || a.shared.arrival - b.shared.arrival || a.choice - b.choice;
}

/** All sequences that are not finished, in the order in which they are served. */
export class Roster {
  readonly #ordering: Ordering;
  readonly #sequences: Sequence[] = [];

  constructor(ordering: Ordering) {
    this.#ordering = ordering;
  }

  get all(): readonly Sequence[] {
    return this.#sequences;
  }

  get running(): Sequence[] {
    return this.#sequences.filter(({ isRunning }) => isRunning);
  }

  /** Places in the batch that are taken: a prefill has one for each answer it will sample. */
  get slotsUsed(): number {
    return this.running.reduce((sum, { answerCount }) => sum + answerCount, 0);
  }

  ofRequest(id: string): Sequence[] {
    return this.#sequences.filter(({ request }) => request.id === id);
  }

  insert(sequence: Sequence): void {
    const after = this.#sequences.findLastIndex((other) => this.isBefore(other, sequence));
    this.#sequences.splice(after + 1, 0, sequence);
  }

  remove(sequence: Sequence): void {
    const index = this.#sequences.indexOf(sequence);
    if (index < 0) throw new Error(`Cannot remove sequence ${sequence.request.id}: it is not in the roster`);
    this.#sequences.splice(index, 1);
  }

  isBefore(a: Sequence, b: Sequence): boolean {
    return compareSequences(this.#ordering, a, b) < 0;
  }
}
