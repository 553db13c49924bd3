/** A scheduler over a real KV manager, and a host that reads ids when the test says so. */
import { aggregate, type KvWishes } from "../../../src/engine/kv-cache/aggregate.ts";
import { KvManager } from "../../../src/engine/kv-cache/kv-manager.ts";
import type { SchedulerLimits, SchedulerRequest } from "../../../src/engine/scheduler/request.ts";
import type { Ordering } from "../../../src/engine/scheduler/roster.ts";
import { Scheduler } from "../../../src/engine/scheduler/scheduler.ts";
import type { Rectangle, StepPlan } from "../../../src/engine/step-plan.ts";

export interface SetUp {
  /** Prefix LM by default. */
  isCausal?: boolean;
  /** Usable blocks of 4 tokens; 64 by default. */
  blocks?: number;
  limits?: Partial<SchedulerLimits>;
  ordering?: Ordering;
  wishes?: KvWishes;
}

export interface Bench {
  scheduler: Scheduler;
  kv: KvManager;
  /** Plans a step that must not be empty. */
  step: (nowMs?: number) => StepPlan;
}

export function setUp({
  isCausal = false,
  blocks = 64,
  limits,
  ordering = "fcfs",
  wishes,
}: SetUp = {}): Bench {
  const spec = { kind: "full-attention", blockSize: 4, kvHeads: 1, headDim: 8, dtype: "f32" } as const;
  const layers = Array.from({ length: 4 }, () => ({ ...spec, nonCausal: !isCausal }));
  const policy = aggregate([layers], wishes);
  const kv = new KvManager({ policy, blockCounts: [blocks + 1], blockSize: 4, model: "toy" });
  const all = {
    maxBatchedTokens: 16,
    maxSequences: 8,
    maxModelLen: 128,
    passCount: 4,
    starvationStepsMax: 3,
    ...limits,
  };
  const scheduler = new Scheduler({ kv, policy, limits: all, ordering });
  const step = (nowMs = 0) => {
    const { plan } = scheduler.schedule(nowMs);
    if (!plan) throw new Error("nothing was planned");
    kv.audit(scheduler.sequences.map((sequence) => sequence.kv));
    return plan;
  };
  return { scheduler, kv, step };
}

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0 };

export function request(
  id: string,
  promptTokens: number,
  changes: Partial<SchedulerRequest> & { answerCount?: number } = {},
): SchedulerRequest {
  const { answerCount = 1, ...rest } = changes;
  return {
    id,
    promptIds: Array.from({ length: promptTokens }, (_, index) => 100 + index),
    prefixLength: promptTokens,
    cacheSalt: id,
    priority: 0,
    maxTokens: 10,
    minTokens: 0,
    stopTokenIds: [],
    answers: Array.from({ length: answerCount }, (_, seed) => ({ ...greedy, seed: BigInt(seed) })),
    needsKnownIds: false,
    deadlineMs: null,
    ...rest,
  };
}

/** "request: start+tokens" for each rectangle of the main batch. */
export function mainOf({ main }: StepPlan): string[] {
  return main.map(describe);
}

/** "request: start+tokens from-to", or null. */
export function layeredOf({ layered }: StepPlan): string | null {
  return layered && `${describe(layered.rectangle)} ${layered.from}-${layered.to}`;
}

function describe({ requestId, start, tokenIds }: Rectangle): string {
  return `${requestId}: ${start}+${tokenIds.length}`;
}
