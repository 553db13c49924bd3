/**
 * The real scheduler and KV manager over a toy device and a virtual clock. After every step all invariants are
 * checked, and at the end every answer is compared with that of the same request alone.
 */
import { InvalidRequestError } from "../../src/engine/errors.ts";
import { KvManager, type KvManagerOptions } from "../../src/engine/kv-cache/kv-manager.ts";
import { Scheduler, type SchedulerOptions } from "../../src/engine/scheduler/scheduler.ts";
import type { StepPlan } from "../../src/engine/step-plan.ts";
import { Ledger } from "./ledger.ts";
import { Random } from "./random.ts";
import { type ClientAction, makeScenario, type Scenario, type ScenarioSize } from "./scenario.ts";
import { ToyDevice } from "./toy-device.ts";
import { Watch } from "./watch.ts";

/** What a test may put in place of the real parts, to see it caught. */
export interface Faults {
  makeKv?: (options: KvManagerOptions) => KvManager;
  makeScheduler?: (options: SchedulerOptions) => Scheduler;
  /** Changes plans on their way to the device. */
  tamper?: (plan: StepPlan) => StepPlan;
}

export interface SimulationResult {
  requests: number;
  refused: number;
  steps: number;
  preemptions: number;
  hits: number;
  layeredSteps: number;
  /** Blocks copied on write. */
  copies: number;
  /** Prefills that were sampled for several answers. */
  sharedPrefills: number;
}

/** Throws an error that names the seed when anything is wrong. */
export function simulate(seed: number, faults: Faults = {}, size?: ScenarioSize): SimulationResult {
  try {
    const random = new Random(seed);
    return new Simulation(makeScenario(random, size), random, faults).run();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`Simulation of seed ${seed} failed (SIM_SEED=${seed}): ${reason}`, { cause });
  }
}

class Simulation {
  readonly #scenario: Scenario;
  readonly #random: Random;
  readonly #kv: KvManager;
  readonly #scheduler: Scheduler;
  readonly #device: ToyDevice;
  readonly #ledger: Ledger;
  readonly #watch: Watch;
  readonly #tamper: (plan: StepPlan) => StepPlan;
  readonly #inFlight: { plan: number; ids: number[] }[] = [];
  #nowMs = 0;
  #nextAction = 0;
  #refused = 0;
  readonly #seen = { layeredSteps: 0, copies: 0, sharedPrefills: 0 };

  constructor(scenario: Scenario, random: Random, faults: Faults) {
    const { policy, blockCounts, blockSize, limits, ordering, model } = scenario;
    const makeKv = faults.makeKv ?? ((options: KvManagerOptions) => new KvManager(options));
    const makeScheduler = faults.makeScheduler ?? ((options: SchedulerOptions) => new Scheduler(options));
    this.#scenario = scenario;
    this.#random = random;
    const stepTokensMax = limits.maxBatchedTokens;
    this.#kv = makeKv({ policy, blockCounts, blockSize, model: "toy", stepTokensMax });
    this.#scheduler = makeScheduler({ kv: this.#kv, policy, limits, ordering });
    this.#ledger = new Ledger(scenario, this.#kv);
    this.#watch = new Watch(scenario);
    this.#tamper = faults.tamper ?? ((plan) => plan);
    const saltOf = (id: string) => this.#ledger.request(id).cacheSalt;
    this.#device = new ToyDevice({
      model,
      layerGroups: policy.layerGroups,
      blockCounts,
      blockSize,
      saltOf,
    });
  }

  run(): SimulationResult {
    while (this.#turn());
    this.#ledger.checkEnd();
    if (this.#kv.stats().groups.some(({ used }) => used > 0)) throw new Error("blocks are in use at the end");
    return {
      requests: this.#ledger.size,
      refused: this.#refused,
      steps: this.#watch.steps,
      preemptions: this.#scheduler.stats().preemptions,
      hits: this.#kv.stats().hits,
      ...this.#seen,
    };
  }

  /** One round of the step loop; false when all is done. */
  #turn(): boolean {
    this.#act();
    const { plan, events } = this.#scheduler.schedule(this.#nowMs);
    this.#ledger.note(events);
    if (plan) this.#submit(plan);
    const isBusy = plan !== null || this.#inFlight.length > 0 || events.length > 0;
    const isPrompt = this.#random.chance(this.#scenario.promptDelivery);
    while (this.#inFlight.length > (plan && !isPrompt ? 1 : 0)) this.#deliver();
    this.#kv.audit(this.#scheduler.sequences.map(({ kv }) => kv));
    this.#ledger.checkGone(this.#scheduler.sequences);
    this.#nowMs += 1 + (plan?.cost ?? 0);
    return isBusy || this.#idle();
  }

  #act(): void {
    const { actions } = this.#scenario;
    for (; actions[this.#nextAction]?.atMs <= this.#nowMs; this.#nextAction++)
      this.#do(actions[this.#nextAction]);
  }

  #do({ kind, request: { id }, request }: ClientAction): void {
    if (kind === "submit") this.#add(request);
    else if (kind === "pause" || kind === "resume") this.#setPaused(id, kind === "pause");
    else if (kind === "cancel") {
      this.#scheduler.cancel(id);
      this.#ledger.cancelled(id);
    } else if (this.#ledger.hasIds(id, 0)) {
      this.#scheduler.cancel(id, 0);
      this.#ledger.cancelled(id, 0);
    }
  }

  #setPaused(id: string, isPaused: boolean): void {
    if (!this.#ledger.has(id)) return;
    if (isPaused) this.#scheduler.pause(id);
    else this.#scheduler.resume(id);
    this.#ledger.setPaused(id, isPaused);
  }

  #add(request: ClientAction["request"]): void {
    const isAdmissible = this.#ledger.isAdmissible(request);
    try {
      this.#scheduler.add(request);
    } catch (error) {
      if (isAdmissible || !(error instanceof InvalidRequestError)) throw error;
      this.#refused++;
      return;
    }
    if (!isAdmissible) throw new Error(`request ${request.id} was admitted, and cannot ever be served`);
    this.#ledger.add(request);
  }

  #submit(plan: StepPlan): void {
    const tampered = this.#tamper(plan);
    this.#watch.check(tampered, this.#ledger.runnable(), this.#scheduler.sequences);
    this.#count(plan);
    const ids = this.#device.run(tampered);
    if (ids.length > 0) this.#inFlight.push({ plan: plan.id, ids });
  }

  #count({ main, layered, copies }: StepPlan): void {
    const rectangles = layered ? [...main, layered.rectangle] : main;
    this.#seen.copies += copies.length;
    this.#seen.sharedPrefills += rectangles.filter(({ sampling }) => sampling.length > 1).length;
    if (layered) this.#seen.layeredSteps++;
  }

  #deliver(): void {
    const step = this.#inFlight.shift();
    if (step) this.#ledger.note(this.#scheduler.onSampled(step.plan, step.ids));
  }

  /** Nothing can be done now: goes on to the next action; false if there is none. */
  #idle(): boolean {
    const [stuck] = this.#ledger.runnable();
    if (stuck) throw new Error(`starvation: request ${stuck} could run, and nothing is planned`);
    const next = this.#scenario.actions.at(this.#nextAction);
    if (next && this.#nextAction < this.#scenario.actions.length)
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
    return this.#nextAction < this.#scenario.actions.length;
  }
}
