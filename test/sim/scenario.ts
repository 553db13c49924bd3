/** What a simulation is about: a model, limits, and requests with all that can happen to them, out of a seed. */
import { aggregate, type KvPolicy } from "../../src/engine/kv-cache/aggregate.ts";
import type { KvCacheSpec } from "../../src/engine/kv-cache/spec.ts";
import type { SchedulerLimits, SchedulerRequest } from "../../src/engine/scheduler/request.ts";
import type { Ordering } from "../../src/engine/scheduler/roster.ts";
import type { Random } from "./random.ts";
import type { PassKind, ToyModel } from "./toy-model.ts";

/** Something a client does to its request. A pause is always followed by a resume. */
export interface ClientAction {
  atMs: number;
  kind: "submit" | "cancel" | "cancel-answer" | "pause" | "resume";
  request: SchedulerRequest;
}

export interface Scenario {
  model: ToyModel;
  policy: KvPolicy;
  blockSize: number;
  /** By group, the null block included. */
  blockCounts: readonly number[];
  limits: SchedulerLimits;
  ordering: Ordering;
  /** In order of time. */
  actions: readonly ClientAction[];
  /** How often the host reads ids as soon as they are sampled, instead of a step later. */
  promptDelivery: number;
}

export interface ScenarioSize {
  requests: number;
}

export function makeScenario(random: Random, size?: ScenarioSize): Scenario {
  const passes = makePasses(random);
  const blockSize = random.pick([1, 2, 3, 4, 8]);
  const policy = aggregate([passes.map((pass) => specOf(pass, blockSize))], {
    chunkedPrefill: random.chance(0.8),
    prefixCaching: random.chance(0.8),
  });
  const limits = makeLimits(random, passes.length);
  const model = { passes, vocabSize: random.pick([8, 30, 1000]) };
  return {
    model,
    policy,
    blockSize,
    blockCounts: policy.groups.map(() => blockCount(random, blockSize, limits)),
    limits,
    ordering: random.pick(["fcfs", "priority"]),
    actions: makeActions(random, limits, size?.requests ?? random.integer(3, 10)),
    promptDelivery: random.pick([0, 0, 0.2, 1]),
  };
}

/** Causal, with windows, bidirectional, or bidirectional with causal windows between. */
function makePasses(random: Random): PassKind[] {
  const hasPrefix = random.chance(0.5);
  const hasWindows = random.chance(0.3);
  const window = random.integer(1, 9);
  return Array.from({ length: random.integer(1, 4) }, () => {
    if (hasWindows && random.chance(0.5)) return { nonCausal: false, window };
    return { nonCausal: hasPrefix && random.chance(0.8), window: null };
  });
}

function specOf({ nonCausal, window }: PassKind, blockSize: number): KvCacheSpec {
  const shape = { blockSize, kvHeads: 1, headDim: 8, dtype: "f32" as const };
  return window === null
    ? { ...shape, kind: "full-attention", nonCausal }
    : { ...shape, kind: "sliding-window", slidingWindow: window };
}

function makeLimits(random: Random, passCount: number): SchedulerLimits {
  return {
    maxBatchedTokens: random.pick([1, 2, 3, 4, 6, 8, 16, 64]),
    maxSequences: random.integer(1, 6),
    maxModelLen: random.integer(8, 40),
    passCount,
    starvationStepsMax: random.integer(1, 6),
  };
}

/** From less than one sequence of full length to several. */
function blockCount(random: Random, blockSize: number, { maxModelLen }: SchedulerLimits): number {
  const share = random.pick([0.5, 0.8, 1, 1, 1.2, 1.5, 2, 4]);
  return 1 + Math.max(2, Math.ceil((maxModelLen * share) / blockSize));
}

function makeActions(random: Random, limits: SchedulerLimits, count: number): ClientAction[] {
  const sharedIds = Array.from({ length: limits.maxModelLen }, () => random.integer(0, 7));
  const spanMs = random.pick([1, 20, 100]) * count;
  const actions = Array.from({ length: count }, (_, index) => {
    const request = makeRequest(random, { id: `r${index}`, sharedIds, limits });
    const atMs = random.integer(0, spanMs);
    if (request.deadlineMs !== null) request.deadlineMs += atMs;
    return [{ atMs, kind: "submit" as const, request }, ...makeInterruptions(random, request, atMs)];
  });
  return actions.flat().toSorted((a, b) => a.atMs - b.atMs);
}

function makeInterruptions(random: Random, request: SchedulerRequest, submittedMs: number): ClientAction[] {
  const later = () => submittedMs + random.integer(0, 150);
  const actions: ClientAction[] = [];
  if (random.chance(0.12)) actions.push({ atMs: later(), kind: "cancel", request });
  if (random.chance(0.05)) actions.push({ atMs: later(), kind: "cancel-answer", request });
  if (random.chance(0.15)) {
    const atMs = later();
    actions.push({ atMs, kind: "pause", request });
    actions.push({ atMs: atMs + random.integer(1, 200), kind: "resume", request });
  }
  return actions;
}

interface RequestShape {
  id: string;
  /** Prompts that start with these have something in common. */
  sharedIds: readonly number[];
  limits: SchedulerLimits;
}

function makeRequest(random: Random, { id, sharedIds, limits }: RequestShape): SchedulerRequest {
  const promptIds = makePrompt(random, sharedIds, limits);
  const isMasked = random.chance(0.15);
  return {
    id,
    promptIds,
    prefixLength: random.chance(0.7) ? promptIds.length : random.integer(0, promptIds.length),
    cacheSalt: random.pick(["", "", "tenant"]),
    priority: random.integer(0, 2),
    maxTokens: random.integer(1, 16),
    minTokens: random.chance(0.2) ? random.integer(1, 4) : 0,
    stopTokenIds: random.chance(0.6) ? [random.integer(0, 7)] : [],
    answers: Array.from({ length: random.chance(0.25) ? random.integer(2, 4) : 1 }, (_, choice) => ({
      temperature: 1,
      topK: 0,
      topP: 1,
      minP: 0,
      seed: BigInt(random.integer(0, 3) * 16 + choice),
    })),
    needsKnownIds: isMasked,
    deadlineMs: random.chance(0.1) ? random.integer(0, 200) : null,
  };
}

function makePrompt(
  random: Random,
  sharedIds: readonly number[],
  { maxModelLen }: SchedulerLimits,
): number[] {
  // Now and then one that is too long.
  const length = random.chance(0.3) ? random.integer(1, maxModelLen) : random.integer(1, maxModelLen >> 1);
  const common = random.chance(0.6) ? random.pick([length, length >> 1, random.integer(0, length)]) : 0;
  const own = Array.from({ length: length - common }, () => random.integer(0, 7));
  return [...sharedIds.slice(0, common), ...own];
}
