/** What a long prompt does to those who are in the middle of an answer, in virtual time: a step takes what it costs. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { aggregate } from "../../src/engine/kv-cache/aggregate.ts";
import { KvManager } from "../../src/engine/kv-cache/kv-manager.ts";
import type { SchedulerEvent, SchedulerRequest } from "../../src/engine/scheduler/request.ts";
import { Scheduler } from "../../src/engine/scheduler/scheduler.ts";
import type { StepPlan } from "../../src/engine/step-plan.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const passCount = 32;
const blockSize = 16;
const longPromptTokens = 1024;
const readerCount = 8;

/** Times at which each request got its ids, and when each step ended; in tokens run through all passes. */
interface Timeline {
  idsAt: Map<string, number[]>;
  costMax: number;
}

function makeScheduler(maxBatchedTokens: number): Scheduler {
  const spec = {
    kind: "full-attention",
    nonCausal: true,
    blockSize,
    kvHeads: 1,
    headDim: 8,
    dtype: "f16",
  } as const;
  const policy = aggregate([Array.from({ length: passCount }, () => spec)]);
  const kv = new KvManager({ policy, blockCounts: [512], blockSize, model: "toy" });
  const limits = { maxBatchedTokens, maxSequences: 16, maxModelLen: 2048, passCount, starvationStepsMax: 4 };
  return new Scheduler({ kv, policy, limits, ordering: "fcfs" });
}

function request(id: string, promptTokens: number, maxTokens: number): SchedulerRequest {
  return {
    id,
    promptIds: Array.from({ length: promptTokens }, (_, index) => index),
    prefixLength: promptTokens,
    cacheSalt: id,
    priority: 0,
    maxTokens,
    minTokens: 0,
    stopTokenIds: [],
    answers: [{ temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0n }],
    needsKnownIds: false,
    deadlineMs: null,
  };
}

/** Eight answer when a long prompt arrives. Ids are read a step late, which is when clients get them. */
function run(maxBatchedTokens: number): Timeline {
  const scheduler = makeScheduler(maxBatchedTokens);
  for (let reader = 0; reader < readerCount; reader++) scheduler.add(request(`reader-${reader}`, 16, 200));
  const timeline: Timeline = { idsAt: new Map(), costMax: 0 };
  const inFlight: StepPlan[] = [];
  let now = 0;
  for (let step = 0; ; step++) {
    if (step === 40) scheduler.add(request("long", longPromptTokens, 20));
    const { plan } = scheduler.schedule(now);
    if (plan) inFlight.push(plan);
    now += plan?.cost ?? 0;
    timeline.costMax = Math.max(timeline.costMax, plan?.cost ?? 0);
    if (inFlight.length === 0) return timeline;
    if (inFlight.length > (plan ? 1 : 0)) note(timeline, deliver(scheduler, inFlight.shift()), now);
  }
}

function deliver(scheduler: Scheduler, plan: StepPlan | undefined): SchedulerEvent[] {
  if (!plan) return [];
  const rectangles = plan.layered ? [...plan.main, plan.layered.rectangle] : plan.main;
  const rows = rectangles.reduce((sum, { sampling }) => sum + sampling.length, 0);
  return scheduler.onSampled(plan.id, new Array<number>(rows).fill(1));
}

function note({ idsAt }: Timeline, events: readonly SchedulerEvent[], now: number): void {
  for (const event of events) {
    if (event.type === "tokens") idsAt.set(event.requestId, [...(idsAt.get(event.requestId) ?? []), now]);
  }
}

/** The longest a reader waits between two of its ids. */
function longestGap({ idsAt }: Timeline): number {
  const gaps = [...idsAt]
    .filter(([id]) => id !== "long")
    .flatMap(([, times]) => times.slice(1).map((time, index) => time - times[index]));
  return Math.max(...gaps);
}

describe("one long prompt among answers that are being written", () => {
  const whole = run(longPromptTokens + readerCount);
  const layered = run(128);

  test("layered, it makes the others wait at most a quarter of the time that it takes whole", () => {
    expect(longestGap(whole)).toBeGreaterThanOrEqual(longPromptTokens);
    expect(longestGap(layered)).toBeLessThanOrEqual(longestGap(whole) / 4);
    // In fact no longer than a step of full budget.
    expect(longestGap(layered)).toBeLessThanOrEqual(128);
  });

  test("no more work is done, and every answer is complete", () => {
    const end = ({ idsAt }: Timeline) =>
      Math.max(...[...idsAt.values()].map((times) => times[times.length - 1]));
    expect(end(layered)).toBe(end(whole));
    for (const { idsAt } of [whole, layered]) {
      expect(idsAt.get("long")?.length).toBe(20);
      for (let reader = 0; reader < readerCount; reader++)
        expect(idsAt.get(`reader-${reader}`)?.length).toBe(200);
    }
  });
});
