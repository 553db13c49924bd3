import type { PositionRange, PrefixQuery, SequenceKv } from "../kv-cache/kv-manager.ts";
import type { SchedulerRequest } from "./request.ts";

/** "preempted" is waiting again, having been further. Whether a request is paused is told apart from this. */
export type SequenceState = "waiting" | "prefilling" | "decoding" | "preempted" | "finished";

/** An id that a submitted step samples and that is not known yet. */
export interface PendingId {
  plan: number;
  /** Its row in the plan's main batch; null when the layered batch samples it. */
  row: number | null;
}

/** What all sequences of a request share. */
export interface RequestState {
  readonly request: SchedulerRequest;
  /** Counts up in order of submission. */
  readonly arrival: number;
  /** P: never changes, whatever happens to the sequence. */
  readonly prefixLength: number;
  /** Most ids of an answer: what the request wants, or what context and KV pool can hold. */
  readonly outputTokensMax: number;
  isPaused: boolean;
  /** Positions before it of an observed prompt are part of steps planned so far, which are run whatever happens. */
  observedEnd: number;
}

/** One answer of a request, on its way. Before the prefill is done, the first stands for all answers of the request. */
export class Sequence {
  readonly shared: RequestState;
  readonly choice: number;
  /** Prompt and known output. */
  readonly knownIds: number[];
  /** Oldest first. */
  readonly pending: PendingId[] = [];
  /** Answers that its prefill samples: all of the request's, or 1 once they have parted. */
  answerCount: number;
  state: SequenceState = "waiting";
  /** What guides the answer has not followed its last id yet. */
  isHeld = false;
  kv: SequenceKv;
  /** Tokens whose KV is written by the steps planned so far. */
  computed = 0;
  /** Keys and values before this position are shared and must not be written again. */
  writeStart = 0;
  /** The last plan it was part of. */
  lastPlan = 0;

  constructor(shared: RequestState, kv: SequenceKv, choice = 0, answerCount = shared.request.answers.length) {
    this.shared = shared;
    this.kv = kv;
    this.choice = choice;
    this.answerCount = answerCount;
    this.knownIds = [...shared.request.promptIds];
  }

  get request(): SchedulerRequest {
    return this.shared.request;
  }

  get isPaused(): boolean {
    return this.shared.isPaused;
  }

  /** Holds KV blocks and a place in the batch. */
  get isRunning(): boolean {
    return this.state === "prefilling" || this.state === "decoding";
  }

  get outputLength(): number {
    return this.knownIds.length - this.request.promptIds.length;
  }

  /** Ids sampled so far, known or not. */
  get sampledCount(): number {
    return this.outputLength + this.pending.length;
  }

  /** Positions of the prompt whose output is wanted and not part of any step planned so far; null for none. */
  get unobserved(): PositionRange | null {
    const { promptOutput, promptIds } = this.request;
    const start = this.shared.observedEnd;
    // The last token's logits are those of the answer.
    const end = { none: 0, logits: promptIds.length - 1, states: promptIds.length }[promptOutput ?? "none"];
    return start < end ? { start, end } : null;
  }

  /** Another answer of the same request, which goes its own way from here. */
  fork(kv: SequenceKv, choice: number): Sequence {
    const copy = new Sequence(this.shared, kv, choice, 1);
    copy.state = this.state;
    copy.computed = this.computed;
    copy.lastPlan = this.lastPlan;
    return copy;
  }

  /** Forgets all KV; what is known of the output stays. `kv` is the empty one it goes on with. */
  reset(kv: SequenceKv, state: SequenceState): void {
    this.kv = kv;
    this.state = state;
    this.computed = 0;
    this.writeStart = 0;
  }
}

/**
 * What a sequence may take from a prefix cache: nothing that must be run for the sake of its output. A bidirectional
 * prefix is taken whole or not at all.
 */
export function reusableQuery(sequence: Sequence): PrefixQuery {
  const query = prefixQuery(sequence);
  const { unobserved } = sequence;
  if (!unobserved) return query;
  // A look-up leaves one token at least to be run.
  return { ...query, ids: query.ids.slice(0, unobserved.start + 1), prefixLength: 0 };
}

/** What of a sequence can be found in a prefix cache, or be put there. */
export function prefixQuery({ knownIds, shared }: Sequence): PrefixQuery {
  return { ids: knownIds, prefixLength: shared.prefixLength, salt: shared.request.cacheSalt };
}
