/**
 * Decides what each step runs: whose decode, whose prefill and how much of it, and who has to give blocks up.
 *
 * A pure state machine: time comes in as a number, ids as they become known, and plans go out. It relies on steps
 * being run in the order of their plans, so that blocks may change hands as soon as the next step is planned. Knows no
 * device, no text and no clock.
 */
import type { KvPolicy } from "../kv-cache/aggregate.ts";
import type { KvManager } from "../kv-cache/kv-manager.ts";
import type { StepPlan } from "../step-plan.ts";
import { checkAdmissible, kvCapacity, outputTokensMax } from "./admission.ts";
import { BlockSupply } from "./block-supply.ts";
import { planDecodes } from "./decodes.ts";
import { deliver } from "./delivery.ts";
import { PlanDraft } from "./plan-draft.ts";
import { PrefillPlanner, type PrefixTokens } from "./prefills.ts";
import type { SchedulerEvent, SchedulerLimits, SchedulerRequest } from "./request.ts";
import { type Ordering, Roster } from "./roster.ts";
import { prefixQuery, type RequestState, Sequence } from "./sequence.ts";

export interface SchedulerOptions {
  kv: KvManager;
  policy: KvPolicy;
  limits: SchedulerLimits;
  ordering: Ordering;
}

export interface SchedulerStats {
  waiting: number;
  /** Hold KV blocks, and make progress. */
  running: number;
  paused: number;
  /** How often a sequence lost its blocks to others, since the start. */
  preemptions: number;
  /** Steps planned since the start. */
  steps: number;
  /** Of sequences that have started: tokens looked up in the prefix cache, and those found. */
  prefixCache: PrefixTokens;
}

export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #capacity: number;
  readonly #roster: Roster;
  readonly #supply: BlockSupply;
  readonly #prefills: PrefillPlanner;
  readonly #requests = new Map<string, RequestState>();
  /** By plan: whose ids will come, in order. */
  readonly #inFlight = new Map<number, readonly Sequence[]>();
  #arrivals = 0;
  #lastPlan = 0;
  /** Steps in a row that decodes filled while a prefill waited. */
  #starvedSteps = 0;

  constructor(options: SchedulerOptions) {
    const { kv, policy, limits, ordering } = options;
    this.#options = options;
    this.#capacity = kvCapacity(kv, limits.maxModelLen);
    this.#roster = new Roster(ordering);
    this.#supply = new BlockSupply({ kv, policy, roster: this.#roster });
    this.#prefills = new PrefillPlanner({ ...options, roster: this.#roster, supply: this.#supply });
  }

  /** Sequences that are not finished, in the order in which they are served. */
  get sequences(): readonly Sequence[] {
    return this.#roster.all;
  }

  /** Queues a request. Throws `InvalidRequestError` or `ContextLengthError` for one that could never be served. */
  add(request: SchedulerRequest): void {
    const { kv, limits, policy } = this.#options;
    checkAdmissible(request, limits, this.#capacity);
    if (this.#requests.has(request.id))
      throw new Error(`Cannot add request ${request.id}: it is there already`);
    const state = {
      request,
      arrival: this.#arrivals++,
      prefixLength: policy.nonCausal ? request.prefixLength : 0,
      outputTokensMax: outputTokensMax(request, limits, this.#capacity),
      isPaused: false,
      observedEnd: 0,
    };
    this.#requests.set(request.id, state);
    this.#roster.insert(new Sequence(state, kv.newSequence()));
  }

  /**
   * Ends a request, or one of its answers, at whatever stage it is, and frees its blocks; no event comes of it.
   * An answer can be told apart once it has ids. What is unknown, or has ended, is ignored.
   */
  cancel(requestId: string, choice?: number): void {
    const isMeant = (sequence: Sequence) =>
      choice === undefined || (sequence.choice === choice && sequence.answerCount === 1);
    this.#roster
      .ofRequest(requestId)
      .filter(isMeant)
      .forEach((sequence) => this.#end(sequence));
  }

  /** Stops planning a request, whose reader is slow. Ids of steps planned before still come. */
  pause(requestId: string): void {
    const state = this.#requests.get(requestId);
    if (!state) return;
    state.isPaused = true;
    // Others may take its blocks and its place.
    this.#supply.touch();
    // A layered prefill holds the only place there is for one.
    const layered = this.#prefills.layeredSequence;
    if (layered?.shared === state && layered.isRunning) this.#supply.preempt(layered);
  }

  resume(requestId: string): void {
    const state = this.#requests.get(requestId);
    if (state) state.isPaused = false;
  }

  /** What guides an answer has followed its last id. An answer that has ended is ignored. */
  release(requestId: string, choice: number): void {
    for (const sequence of this.#roster.ofRequest(requestId)) {
      if (sequence.choice === choice) sequence.isHeld = false;
    }
  }

  /**
   * The next step, and the requests whose deadline has passed. The plan must be run, after those before it. There is
   * none when nothing can be done before ids are delivered, or at all.
   */
  schedule(nowMs: number): { plan: StepPlan | null; events: SchedulerEvent[] } {
    const events = this.#expire(nowMs);
    const draft = new PlanDraft(this.#lastPlan + 1, this.#options.limits);
    this.#fill(draft);
    while (draft.isEmpty && draft.isShortOfBlocks && this.#makeRoom()) this.#fill(draft);
    if (draft.isEmpty) return { plan: null, events };
    this.#lastPlan = draft.id;
    draft.sequences.forEach((sequence) => this.#settle(sequence));
    const { plan, sampled } = draft.finish();
    if (sampled.length > 0) this.#inFlight.set(plan.id, sampled);
    return { plan, events };
  }

  /**
   * Takes the ids that a plan's rows sampled: those of the main batch, then those of the layered one. Plans must come
   * in order, those without sampled rows may be left out.
   */
  onSampled(planId: number, ids: ArrayLike<number>): SchedulerEvent[] {
    const { events, ended } = deliver(planId, this.#inFlight.get(planId) ?? [], ids);
    this.#inFlight.delete(planId);
    ended.forEach((sequence) => this.#end(sequence));
    return events;
  }

  stats(): SchedulerStats {
    const count = (isCounted: (sequence: Sequence) => boolean) => this.#roster.all.filter(isCounted).length;
    return {
      waiting: count(({ isRunning, isPaused }) => !isRunning && !isPaused),
      running: count(({ isRunning, isPaused }) => isRunning && !isPaused),
      paused: count(({ isPaused }) => isPaused),
      preemptions: this.#supply.preemptions,
      steps: this.#lastPlan,
      prefixCache: this.#prefills.prefixTokens,
    };
  }

  #fill(draft: PlanDraft): void {
    const { maxBatchedTokens, starvationStepsMax } = this.#options.limits;
    const isPrefillDue = this.#starvedSteps >= starvationStepsMax && this.#prefills.isWanted();
    const decode = (reservedTokens: number) =>
      planDecodes(draft, { roster: this.#roster, supply: this.#supply, reservedTokens });
    decode(isPrefillDue ? Math.ceil(maxBatchedTokens / 4) : 0);
    const isFull = draft.room <= 0;
    this.#prefills.plan(draft);
    // What was kept for prefills, and is of no use to them (they wait for blocks, or for places).
    if (isPrefillDue) decode(0);
    this.#starvedSteps = isFull && this.#prefills.isWanted() ? this.#starvedSteps + 1 : 0;
  }

  /**
   * Frees the blocks of the last of those who hold some, so that the first who needs more can go on; false if there is
   * none but itself. As long as ids are on their way, or have to be followed, whoever gets them may do without.
   */
  #makeRoom(): boolean {
    if (this.#inFlight.size > 0 || this.#roster.all.some(({ isHeld }) => isHeld)) return false;
    const first = this.#roster.all.find(({ isPaused }) => !isPaused);
    const victim = this.#roster.running.findLast((sequence) => sequence !== first);
    if (victim) this.#supply.preempt(victim);
    else if (first) throw new Error(`Cannot go on with request ${first.request.id}: it has all KV blocks`);
    return victim !== undefined;
  }

  /** After the step is planned: its writes can be shared by later steps, and what only it sees is given back. */
  #settle(sequence: Sequence): void {
    const { kv, policy } = this.#options;
    const computed = Math.min(sequence.computed, sequence.knownIds.length);
    kv.commit(sequence.kv, prefixQuery(sequence), computed);
    kv.trim(sequence.kv, sequence.computed);
    const isPrefixNew = sequence.state === "decoding" && sequence.pending.length === sequence.sampledCount;
    if (isPrefixNew || policy.groups.some(({ window }) => window !== null)) this.#supply.touch();
  }

  #end(sequence: Sequence): void {
    this.#supply.free(sequence, "finished");
    this.#roster.remove(sequence);
    const { id } = sequence.request;
    if (this.#roster.ofRequest(id).length === 0) this.#requests.delete(id);
  }

  #expire(nowMs: number): SchedulerEvent[] {
    const expired = [...this.#requests.values()].filter(
      ({ request: { deadlineMs } }) => deadlineMs !== null && nowMs >= deadlineMs,
    );
    return expired.map(({ request }) => {
      this.cancel(request.id);
      return { type: "expired", requestId: request.id };
    });
  }
}
