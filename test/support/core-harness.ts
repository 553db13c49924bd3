/** The step loop over the real scheduler and KV manager and a fake runner, with a clock that the test sets. */
import type { AdmittedRequest } from "../../src/engine/admission.ts";
import type { GenerationRequest, SamplingParams } from "../../src/engine/client.ts";
import { type CoreEvent, type CoreOptions, EngineCore, type RequestSink } from "../../src/engine/core.ts";
import type { KvPolicy } from "../../src/engine/kv-cache/aggregate.ts";
import { KvManager } from "../../src/engine/kv-cache/kv-manager.ts";
import type { SchedulerLimits } from "../../src/engine/scheduler/request.ts";
import { Scheduler } from "../../src/engine/scheduler/scheduler.ts";
import type { TraceStep } from "../../src/engine/trace-events.ts";
import { FakeRunner, type FakeRunnerOptions } from "./fake-runner.ts";

export const eos = 9;
export const vocabSize = 64;
const blockSize = 4;

export interface HarnessOptions extends FakeRunnerOptions, Partial<SchedulerLimits> {
  isPrefixLm?: boolean;
  /** The null block not counted. */
  blockCount?: number;
  isTraced?: boolean;
  grammars?: CoreOptions["grammars"];
}

export class CoreHarness {
  readonly runner: FakeRunner;
  readonly core: EngineCore;
  readonly kv: KvManager;
  readonly scheduler: Scheduler;
  readonly events = new Map<string, CoreEvent[]>();
  readonly errors = new Map<string, unknown>();
  readonly traced: TraceStep[] = [];
  nowMs = 0;

  constructor(options: HarnessOptions = {}) {
    const { isPrefixLm = true, blockCount = 32, isTraced = false } = options;
    const policy = policyOf(isPrefixLm);
    this.runner = new FakeRunner(options);
    const stepTokensMax = options.maxBatchedTokens ?? 64;
    this.kv = new KvManager({ policy, blockCounts: [blockCount + 1], blockSize, model: "m", stepTokensMax });
    const limits = {
      maxBatchedTokens: stepTokensMax,
      maxSequences: options.maxSequences ?? 8,
      maxModelLen: options.maxModelLen ?? 128,
      passCount: this.runner.passCount,
      starvationStepsMax: 16,
    };
    this.scheduler = new Scheduler({ kv: this.kv, policy, limits, ordering: "fcfs" });
    const { runner, kv, scheduler } = this;
    const trace = { step: (step: TraceStep) => void this.traced.push(step) };
    const clock = () => this.nowMs;
    const { grammars } = options;
    const common = { runner, kv, scheduler, clock, vocabSize, eosTokenIds: [eos], grammars };
    this.core = new EngineCore(isTraced ? { ...common, trace } : common);
  }

  submit(request: AdmittedRequest, onEvent: (event: CoreEvent) => void = () => {}): void {
    const events: CoreEvent[] = [];
    this.events.set(request.id, events);
    const sink: RequestSink = {
      emit: (event) => {
        events.push(event);
        onEvent(event);
      },
      fail: (error) => void this.errors.set(request.id, error),
    };
    this.core.submit(request, sink);
  }

  eventsOf(id: string, choice = 0): CoreEvent[] {
    return (this.events.get(id) ?? []).filter((event) => event.type !== "prompt" && event.choice === choice);
  }

  /** Ids reported of an answer so far. */
  ids(id: string, choice = 0): number[] {
    return this.eventsOf(id, choice).flatMap((event) => (event.type === "tokens" ? event.ids : []));
  }

  /** How an answer ended, or null. */
  finish(id: string, choice = 0): string | null {
    const last = this.eventsOf(id, choice).at(-1);
    return last?.type === "finish" ? last.reason : null;
  }

  /** Throws unless each block is free, cached, or held by a sequence that is not finished; gives the blocks in use. */
  blocksUsed(): number {
    this.kv.audit(this.scheduler.sequences.map(({ kv }) => kv));
    return this.kv.stats().groups[0].used;
  }
}

function policyOf(isPrefixLm: boolean): KvPolicy {
  return {
    groups: [{ window: null, layers: [0] }],
    layerGroups: [0],
    bytesPerBlock: [1],
    blockSize,
    nonCausal: isPrefixLm,
    prefillCut: isPrefixLm ? "layers" : "tokens",
    prefixReuse: isPrefixLm ? "whole" : "blocks",
    notices: [],
  };
}

type RequestChanges = Partial<Omit<GenerationRequest, "id" | "sampling">> & Partial<SamplingParams>;

/** Greedy, three tokens, prompt 1 to 5; request and sampling parameters in one. */
export function coreRequest(id: string, changes: RequestChanges = {}): GenerationRequest {
  const {
    promptIds = [1, 2, 3, 4, 5],
    prefixLength,
    priority,
    cacheSalt,
    deadlineMs,
    wantsMeanState,
    ...sampling
  } = changes;
  const greedy = { maxTokens: 3, temperature: 0, topP: 1, topK: 0, minP: 0, seed: 7n, stop: [] };
  return {
    id,
    promptIds,
    prefixLength,
    priority,
    cacheSalt,
    deadlineMs,
    wantsMeanState,
    sampling: { ...greedy, ...sampling },
  };
}

/** Ids that no other prompt begins with, unless it has the same `first`. */
export function promptOf(count: number, first = 10): number[] {
  return Array.from({ length: count }, (_, index) => (first + index) % vocabSize);
}
