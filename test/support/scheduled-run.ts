/**
 * One loaded model under many schedules: each run has a budget, a pool of blocks and a prefix cache of its own over the
 * same device. It keeps every plan and what became of every request, and counts all blocks after every step.
 */
import { createHash } from "node:crypto";
import type {
  FinishReason,
  GenerationRequest,
  PromptResult,
  TokenLogprobs,
} from "../../src/engine/client.ts";
import { EngineCore } from "../../src/engine/core.ts";
import { KvManager } from "../../src/engine/kv-cache/kv-manager.ts";
import type { LoadedEngine } from "../../src/engine/load-engine.ts";
import type { RunnablePlan, Runner, StepResult, Wanted } from "../../src/engine/runner.ts";
import { Scheduler } from "../../src/engine/scheduler/scheduler.ts";
import type { Sequence } from "../../src/engine/scheduler/sequence.ts";
import type { Rectangle, StepPlan } from "../../src/engine/step-plan.ts";
import { STARVATION_STEPS_MAX } from "../../src/limits.ts";

/** What is left out is what the engine was loaded with, which it must not exceed. */
export interface ScheduleOptions {
  maxBatchedTokens?: number;
  maxSequences?: number;
  promptRowsMax?: number;
  /** Usable blocks of each group. */
  numBlocks?: number;
  prefixCaching?: boolean;
  /** Keeps a hash of every sampled row of logits; costs their read-back. */
  hashesRows?: boolean;
}

/** What became of one answer. */
export interface Answer {
  ids: number[];
  /** How many steps had been planned when each id came. */
  arrivals: number[];
  reason: FinishReason | null;
  /** Of each id, if the request asked for them. */
  logprobs: TokenLogprobs[];
  /** Of each id, and maybe of further ones that were not wanted any more: hash of the logits it was chosen from. */
  rows: string[];
}

export interface Outcome {
  request: GenerationRequest;
  answers: Answer[];
  prompt: PromptResult | null;
  /** Resolves when the request has ended or been cancelled; rejects when it failed. */
  done: Promise<void>;
  end: () => void;
}

export class ScheduledRun {
  readonly kv: KvManager;
  readonly scheduler: Scheduler;
  readonly passCount: number;
  readonly plans: StepPlan[] = [];
  readonly outcomes = new Map<string, Outcome>();
  /** Most requests that were under way at once. */
  requestsMax = 0;
  /** Called before a step is planned, with the number of plans so far. */
  beforeStep: (planned: number) => void = () => {};
  readonly #core: EngineCore;

  constructor(engine: LoadedEngine, options: ScheduleOptions = {}) {
    const { config, policy, runner, blocks, maxModelLen } = engine;
    const { numBlocks, prefixCaching = true, hashesRows = false } = options;
    const { maxBatchedTokens = engine.maxBatchedTokens, maxSequences = runner.limits.sequences } = options;
    this.passCount = runner.passCount;
    this.kv = new KvManager({
      policy: prefixCaching ? policy : { ...policy, prefixReuse: "none" },
      blockCounts: blocks.blockCounts.map((count) => (numBlocks === undefined ? count : numBlocks + 1)),
      blockSize: policy.blockSize,
      model: "test",
      stepTokensMax: maxBatchedTokens,
    });
    const { passCount } = this;
    const starvationStepsMax = STARVATION_STEPS_MAX;
    const { promptRowsMax = runner.limits.rows - runner.limits.sequences } = options;
    const limits = {
      maxBatchedTokens,
      maxSequences,
      promptRowsMax,
      maxModelLen,
      passCount,
      starvationStepsMax,
    };
    this.scheduler = new WatchedScheduler({ kv: this.kv, policy, limits, ordering: "fcfs" }, this);
    this.#core = new EngineCore({
      runner: hashesRows ? this.#hashing(runner, config.vocabSize) : runner,
      scheduler: this.scheduler,
      kv: this.kv,
      clock: () => 0,
      eosTokenIds: config.eosTokenIds,
      vocabSize: config.vocabSize,
    });
  }

  submit(request: GenerationRequest): Outcome {
    const { promise: done, resolve: end, reject: fail } = Promise.withResolvers<void>();
    const answers = Array.from({ length: request.sampling.n ?? 1 }, (): Answer => ({
      ids: [],
      arrivals: [],
      logprobs: [],
      reason: null,
      rows: [],
    }));
    const outcome: Outcome = { request, answers, prompt: null, done, end };
    this.outcomes.set(request.id, outcome);
    this.#core.submit(request, {
      fail,
      emit: (event) => {
        if (event.type === "prompt") {
          outcome.prompt = event;
          return;
        }
        const answer = answers[event.choice];
        if (event.type === "finish") answer.reason = event.reason;
        else {
          answer.ids.push(...event.ids);
          answer.logprobs.push(...(event.logprobs ?? []));
          answer.arrivals.push(...event.ids.map(() => this.plans.length));
        }
        if (answers.every(({ reason }) => reason !== null)) end();
      },
    });
    return outcome;
  }

  cancel(id: string): void {
    this.#core.cancel(id);
    this.outcomes.get(id)?.end();
  }

  /** Waits until all requests have ended, those that come meanwhile too. */
  async settled(): Promise<void> {
    for (const { done } of this.outcomes.values()) await done;
  }

  /** Waits for all requests and for the step under way; then nobody may hold a block. */
  async drain(): Promise<void> {
    await this.settled();
    await this.#core.close();
    this.kv.audit([]);
  }

  sequencesOf(id: string): Sequence[] {
    return this.scheduler.sequences.filter(({ request }) => request.id === id);
  }

  #hashing(runner: Runner, vocabSize: number): Pick<Runner, "run" | "passCount"> {
    const keep = (plan: RunnablePlan, logits: Float32Array) => {
      sampledRows(plan, runner.passCount).forEach(({ id, choice, step }, row) => {
        const bits = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
        const hash = createHash("sha256").update(bits).digest("base64");
        const answer = this.outcomes.get(id)?.answers[choice];
        if (answer) answer.rows[step] = hash;
      });
    };
    const run = (plan: RunnablePlan, ...wanted: Wanted[]): StepResult => {
      const result = runner.run(plan, ...new Set<Wanted>([...wanted, "logits"]));
      let read: Promise<Float32Array> | undefined;
      const logits = () => (read ??= result.logits());
      const sampled = async () => {
        const [ids, values] = await Promise.all([result.sampled(), logits()]);
        keep(plan, values);
        return ids;
      };
      return { ...result, sampled, logits };
    };
    return { passCount: runner.passCount, run };
  }
}

/** Tells its run of each step, and counts the blocks after it. */
class WatchedScheduler extends Scheduler {
  readonly #run: ScheduledRun;

  constructor(options: ConstructorParameters<typeof Scheduler>[0], run: ScheduledRun) {
    super(options);
    this.#run = run;
  }

  override schedule(nowMs: number): ReturnType<Scheduler["schedule"]> {
    const { plans, kv } = this.#run;
    this.#run.beforeStep(plans.length);
    const result = super.schedule(nowMs);
    if (result.plan) plans.push(result.plan);
    const requests = new Set(this.sequences.map(({ request }) => request.id));
    this.#run.requestsMax = Math.max(this.#run.requestsMax, requests.size);
    kv.audit(this.sequences.map((sequence) => sequence.kv));
    return result;
  }
}

function sampledRows({ main, layered }: RunnablePlan, passCount: number) {
  const last = layered && layered.to === passCount ? [layered.rectangle] : [];
  return [...main, ...last].flatMap(({ requestId, choice, sampling }) =>
    sampling.map(({ step }, index) => ({ id: requestId, choice: choice + index, step })),
  );
}

/** What the request gives when nothing else runs, and nothing was cached before. */
export async function runAlone(engine: LoadedEngine, request: GenerationRequest): Promise<Outcome> {
  const run = new ScheduledRun(engine, { prefixCaching: false, hashesRows: true });
  const outcome = run.submit(request);
  await run.drain();
  return outcome;
}

/** Tokens times passes that the plans run in such rectangles. */
export function workOf(
  { plans, passCount }: ScheduledRun,
  isCounted: (rectangle: Rectangle) => boolean,
): number {
  const tokensOf = (rectangle: Rectangle) => (isCounted(rectangle) ? rectangle.tokenIds.length : 0);
  return plans.reduce((sum, { main, layered }) => {
    const part = layered ? tokensOf(layered.rectangle) * (layered.to - layered.from) : 0;
    return sum + part + main.reduce((work, rectangle) => work + tokensOf(rectangle) * passCount, 0);
  }, 0);
}

/** Indices of the plans in which an answer gets a row sampled by the main batch. */
export function stepsOf({ plans }: ScheduledRun, id: string, choice = 0): number[] {
  return plans.flatMap(({ main }, index) =>
    main.some(
      (rectangle) => rectangle.requestId === id && rectangle.choice === choice && rectangle.logits !== "none",
    )
      ? [index]
      : [],
  );
}
