/**
 * The step loop: schedule, run, publish.
 *
 * A step is submitted before the ids of the one before it have been read: ids go from sampling to embedding on the
 * device, and JavaScript reads one step behind, so the device does not wait. A request whose next choice depends on
 * its last id is planned every other step. Knows ids only; text is the client's business.
 */
import { setImmediate } from "node:timers/promises";
import type { AdmittedRequest } from "./admission.ts";
import type { PromptResult } from "./client.ts";
import type { KvManager } from "./kv-cache/kv-manager.ts";
import { ActiveRequest, type AnswerTokens } from "./active-request.ts";
import type { GrammarPool, Guide } from "./grammar/grammar-pool.ts";
import type { GrammarSource } from "./grammar/protocol.ts";
import type { Runner, StepResult, Wanted } from "./runner.ts";
import type { Scheduler } from "./scheduler/scheduler.ts";
import type { SchedulerEvent } from "./scheduler/request.ts";
import type { RowEdits } from "./row-edits.ts";
import type { EngineStats } from "./stats.ts";
import { type RequestTally, Tally } from "./tally.ts";
import { ObservedPrompts } from "./observed-prompts.ts";
import type { Rectangle, StepPlan } from "./step-plan.ts";
import type { TraceStep } from "./trace-events.ts";
import { traceRectangles } from "./trace-plan.ts";

export interface CoreOptions {
  runner: Pick<Runner, "run" | "passCount">;
  scheduler: Pick<
    Scheduler,
    "add" | "cancel" | "pause" | "resume" | "release" | "schedule" | "onSampled" | "stats"
  >;
  kv: Pick<KvManager, "stats">;
  /** Milliseconds. */
  clock: () => number;
  vocabSize: number;
  /** Ids that end an answer; the id itself is reported. */
  eosTokenIds: readonly number[];
  /** Left out, no request may have a grammar. */
  grammars?: Pick<GrammarPool, "open" | "stats">;
  trace?: { step(step: TraceStep): void };
}

export type CoreEvent =
  | ({ type: "prompt" } & PromptResult)
  | ({ type: "tokens"; choice: number } & AnswerTokens)
  | { type: "finish"; choice: number; reason: "stop" | "length" };

/** Called with what becomes of a request, until all its answers have finished or it has failed. */
export interface RequestSink {
  emit(event: CoreEvent): void;
  fail(error: unknown): void;
}

interface Entry {
  active: ActiveRequest;
  sink: RequestSink;
  tally: RequestTally;
}

interface SampledRow {
  request: ActiveRequest;
  choice: number;
  /** Ids generated before. */
  step: number;
}

/** A step that has been submitted and not read. */
interface Flight {
  plan: StepPlan;
  result: StepResult;
  /** Requests of its sampled rows, in order. */
  rows: SampledRow[];
  prompts: ObservedPrompts;
  hasLogits: boolean;
  submitMs: number;
  counters: TraceStep["counters"] | null;
}

type NewTokens = Extract<SchedulerEvent, { type: "tokens" }>;
type AnswerEnd = Omit<Extract<SchedulerEvent, { type: "finish" }>, "type">;

/** Steps on the device while another is planned. */
const flightsMax = 2;

export class EngineCore {
  readonly #options: CoreOptions;
  readonly #requests = new Map<string, Entry>();
  /** Those whose grammar is being compiled. */
  readonly #preparing = new Map<string, AbortController>();
  readonly #flights: Flight[] = [];
  readonly #tally = new Tally();
  #isRunning = false;
  #isClosing = false;
  #failure: { reason: unknown } | null = null;
  /** The loop's current run. */
  #run = Promise.resolve();

  constructor(options: CoreOptions) {
    this.#options = options;
  }

  /**
   * True once a step has failed. Nothing runs after that: what is cached counts on the KV writes of all steps planned,
   * and those that were not run would be wrong answers later.
   */
  get hasFailed(): boolean {
    return this.#failure !== null;
  }

  /**
   * Queues a request, when its grammar is compiled if it has one. Throws what the scheduler throws for one that can
   * never be served, or why the core has failed; with a grammar, the sink is told of it.
   */
  submit(request: AdmittedRequest, sink: RequestSink): void {
    if (this.#failure) throw this.#failure.reason;
    if (request.grammarSource) void this.#prepare(request, request.grammarSource, sink);
    else this.#add(request, sink);
  }

  #add(request: AdmittedRequest, sink: RequestSink, guides: readonly Guide[] = []): void {
    const { scheduler, clock, eosTokenIds, vocabSize } = this.#options;
    const active = new ActiveRequest(request, { eosTokenIds, vocabSize }, guides);
    scheduler.add(active.forScheduler());
    const tally = this.#tally.open(request.promptIds.length, clock());
    this.#requests.set(request.id, { active, sink, tally });
    this.#wake();
  }

  /** Queues the request when there are guides for its answers. Never rejects. */
  async #prepare(request: AdmittedRequest, source: GrammarSource, sink: RequestSink): Promise<void> {
    const preparing = new AbortController();
    this.#preparing.set(request.id, preparing);
    let guides: Guide[] = [];
    try {
      const { n = 1 } = request.sampling;
      guides = (await this.#options.grammars?.open(source, n, preparing.signal)) ?? [];
      preparing.signal.throwIfAborted();
      this.#add(request, sink, guides);
    } catch (error) {
      for (const guide of guides) guide.close();
      if (!preparing.signal.aborted) sink.fail(error);
    } finally {
      this.#preparing.delete(request.id);
    }
  }

  /** Ends a request or one of its answers at whatever stage it is; nothing more is emitted. Unknown ids are ignored. */
  cancel(id: string, choice?: number): void {
    this.#options.scheduler.cancel(id, choice);
    if (choice === undefined) this.#preparing.get(id)?.abort();
    const entry = this.#requests.get(id);
    if (!entry) return;
    if (choice === undefined || entry.active.finish(choice)) this.#forget(id);
    this.#wake();
  }

  /** Stops and goes on with planning a request whose reader is slow. */
  pause(id: string): void {
    this.#options.scheduler.pause(id);
  }

  resume(id: string): void {
    this.#options.scheduler.resume(id);
    this.#wake();
  }

  stats(): Omit<EngineStats, "kernels"> {
    const { groups } = this.#options.kv.stats();
    return {
      ...this.#options.scheduler.stats(),
      grammars: this.#options.grammars?.stats() ?? { kept: 0, threadLosses: 0 },
      kvBlocks: groups.map(({ blocks: total, used, cached, free }) => ({ total, used, cached, free })),
      ...this.#tally.numbers(),
    };
  }

  /** Ends all requests, without a word to them, and resolves when no step is under way any more. */
  async close(): Promise<void> {
    this.#isClosing = true;
    for (const id of [...this.#requests.keys(), ...this.#preparing.keys()]) this.cancel(id);
    await this.#run;
  }

  #wake(): void {
    if (this.#isRunning || this.#failure) return;
    this.#isRunning = true;
    this.#run = this.#loop();
  }

  async #loop(): Promise<void> {
    try {
      while (this.#step() || this.#flights.length > 0) {
        if (this.#flights.length >= flightsMax || !this.#hasPlanned) await this.#land();
        // Messages (a cancellation, a new request) come in between steps.
        else await setImmediate();
      }
    } catch (error) {
      this.#failAll(error);
    }
    // Not a turn later: who submits in between would wait for ever.
    this.#isRunning = false;
  }

  #hasPlanned = false;

  /** Plans and submits a step; false if there is nothing to do now. */
  #step(): boolean {
    const { scheduler, clock } = this.#options;
    const { plan, events } = this.#isClosing ? { plan: null, events: [] } : scheduler.schedule(clock());
    this.#publish(events);
    this.#hasPlanned = plan !== null;
    if (plan) this.#flights.push(this.#launch(plan));
    return plan !== null;
  }

  #launch(plan: StepPlan): Flight {
    const { runner, clock, trace } = this.#options;
    const submitMs = clock();
    this.#begin(plan, submitMs);
    const layered = lastLayered(plan, runner.passCount);
    const rows = { main: this.#rowsOf(plan.main), layered: this.#rowsOf(layered) };
    const all = [...rows.main, ...rows.layered];
    const hasLogits = all.some(({ request }) => request.wantsLogprobs);
    const edits = { main: rows.main.map(editsOf), layered: rows.layered.map(editsOf) };
    const counters = trace ? this.#counters() : null;
    const prompts = new ObservedPrompts([...plan.main, ...layered], (id) => this.#requests.get(id)?.active);
    const wanted: Wanted[] = ["sampled", ...(hasLogits ? (["logits"] as const) : []), ...prompts.wanted];
    const result = runner.run({ ...plan, edits }, ...wanted);
    return { plan, result, rows: all, prompts, hasLogits, submitMs, counters };
  }

  #begin({ main, layered }: StepPlan, nowMs: number): void {
    for (const { requestId, start } of layered ? [...main, layered.rectangle] : main) {
      const entry = this.#requests.get(requestId);
      if (!entry) continue;
      entry.active.begin(start);
      entry.tally.plan(nowMs);
    }
  }

  /** A row for each id that the rectangles sample. */
  #rowsOf(rectangles: readonly Rectangle[]): SampledRow[] {
    return rectangles.flatMap(({ requestId, choice, logits, sampling }) => {
      if (logits === "none") return [];
      const request = this.#requests.get(requestId)?.active;
      if (!request) throw new Error(`Cannot run request ${requestId}: it has ended`);
      return sampling.map(({ step }, index) => ({ request, choice: choice + index, step }));
    });
  }

  /** Waits for the oldest step and hands its ids on. */
  async #land(): Promise<void> {
    const flight = this.#flights.shift();
    if (!flight) return;
    const { plan, result, rows, prompts, hasLogits } = flight;
    const [ids, logits] = await Promise.all([
      result.sampled(),
      hasLogits ? result.logits() : null,
      prompts.take(result),
    ]);
    this.#record(flight);
    if (logits)
      rows.forEach(({ request, choice }, row) => request.keepLogprobs(choice, { ids, logits, row }));
    this.#publish(this.#options.scheduler.onSampled(plan.id, ids));
  }

  #publish(events: readonly SchedulerEvent[]): void {
    for (const event of events) {
      const entry = this.#requests.get(event.requestId);
      if (!entry) continue;
      const { active, sink } = entry;
      if (event.type === "expired") {
        this.#forget(event.requestId);
        sink.fail(active.deadlineError());
      } else if (!active.isFinished(event.choice)) {
        this.#publishAnswer(event, entry);
      }
    }
  }

  #publishAnswer(event: Exclude<SchedulerEvent, { type: "expired" }>, entry: Entry): void {
    const { active, sink } = entry;
    const { choice } = event;
    if (event.type === "tokens") {
      const prompt = active.takePrompt();
      if (prompt) sink.emit({ type: "prompt", ...prompt });
      // Whoever is told of the prompt may want no more.
      if (active.isFinished(choice) || !this.#requests.has(event.requestId)) return;
      entry.tally.generate(event.ids.length);
      sink.emit({ type: "tokens", choice, ...active.accept(choice, event.ids) });
      if (active.isGuided) void this.#follow(event, entry);
      return;
    }
    this.#finish(event, entry);
  }

  #finish({ requestId, choice, reason }: AnswerEnd, { active, sink }: Entry): void {
    if (active.finish(choice)) this.#forget(requestId);
    sink.emit({ type: "finish", choice, reason });
  }

  /** Lets an answer's grammar follow it, and the answer go on, or end where the grammar does. Never rejects. */
  async #follow({ requestId, choice, ids }: NewTokens, entry: Entry): Promise<void> {
    const { active, sink } = entry;
    const { scheduler } = this.#options;
    const isOver = () => this.#requests.get(requestId) !== entry || active.isFinished(choice);
    try {
      const hasEnded = await active.follow(choice, ids);
      if (isOver()) return;
      if (hasEnded) {
        scheduler.cancel(requestId, choice);
        this.#finish({ requestId, choice, reason: "stop" }, entry);
      } else {
        scheduler.release(requestId, choice);
      }
    } catch (error) {
      if (isOver()) return;
      this.#forget(requestId);
      sink.fail(error);
    }
    this.#wake();
  }

  /** Nothing more of a request is planned or told. */
  #forget(id: string): void {
    this.#options.scheduler.cancel(id);
    this.#requests.get(id)?.active.close();
    this.#requests.delete(id);
  }

  /** The device or the scheduler is broken: nobody can be served any more. */
  #failAll(error: unknown): void {
    this.#failure = { reason: error };
    this.#flights.length = 0;
    for (const [id, { sink }] of [...this.#requests]) {
      this.#forget(id);
      sink.fail(error);
    }
  }

  #counters(): TraceStep["counters"] {
    const { running, waiting } = this.#options.scheduler.stats();
    return { running, waiting, kvBlocks: this.#options.kv.stats().groups };
  }

  #record({ plan, submitMs, counters }: Flight): void {
    const { trace, clock, runner } = this.#options;
    const rectangles = traceRectangles(plan, runner.passCount);
    const step = { index: plan.id, submitMs, doneMs: clock(), rectangles };
    this.#tally.step(step);
    if (trace && counters) trace.step({ ...step, counters });
  }
}

/** The layered rectangle, if this step takes it to the end, where its rows are sampled. */
function lastLayered({ layered }: StepPlan, passCount: number): Rectangle[] {
  return layered && layered.to === passCount ? [layered.rectangle] : [];
}

function editsOf({ request, choice, step }: SampledRow): RowEdits {
  return request.edits(choice, step);
}
