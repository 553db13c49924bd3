/** The life of a request: admission, its end, cancellation, pauses, deadlines, preemption. */
import { describe, expect, test } from "bun:test";
import { ContextLengthError, InvalidRequestError } from "../../../src/engine/errors.ts";
import type { SchedulerEvent } from "../../../src/engine/scheduler/request.ts";
import { type Bench, layeredOf, mainOf, request, setUp } from "./harness.ts";

function finishes(events: readonly SchedulerEvent[]): string[] {
  return events.flatMap((event) => (event.type === "finish" ? [`${event.requestId}: ${event.reason}`] : []));
}

/** Runs to the end; every id is `id`. Returns how requests ended. */
function runAll({ scheduler }: Bench, id = 1): string[] {
  const ends: string[] = [];
  for (let { plan } = scheduler.schedule(0); plan; { plan } = scheduler.schedule(0)) {
    const rectangles = plan.layered ? [...plan.main, plan.layered.rectangle] : plan.main;
    const rows = rectangles.flatMap(({ sampling }) => sampling.map(() => id));
    ends.push(...finishes(scheduler.onSampled(plan.id, rows)));
  }
  return ends;
}

function used({ kv }: Bench): number {
  return kv.stats().groups[0].used;
}

describe("admission", () => {
  test("a prompt that fills the context is refused", () => {
    const { scheduler } = setUp({ limits: { maxModelLen: 20 } });
    expect(() => scheduler.add(request("a", 20))).toThrow(ContextLengthError);
    expect(() => scheduler.add(request("a", 20))).toThrow(/at most 19 tokens.*context.*got 20/);
    scheduler.add(request("a", 19));
  });

  test("a prompt that all blocks together cannot hold is refused", () => {
    const { scheduler } = setUp({ blocks: 3 });
    expect(() => scheduler.add(request("a", 12))).toThrow(/at most 11 tokens.*KV blocks.*got 12/);
    scheduler.add(request("a", 11));
  });

  test("so are empty prompts, impossible prefixes, and more answers than places", () => {
    const { scheduler } = setUp({ limits: { maxSequences: 2 } });
    expect(() => scheduler.add(request("a", 0))).toThrow(InvalidRequestError);
    expect(() => scheduler.add(request("a", 4, { prefixLength: 5 }))).toThrow(
      /prefix of 0 to 4 tokens, got 5/,
    );
    expect(() => scheduler.add(request("a", 4, { answerCount: 3 }))).toThrow(/1 to 2 answers, got 3/);
    expect(() => scheduler.add(request("a", 4, { maxTokens: 0 }))).toThrow(/at least one token/);
    expect(scheduler.stats().waiting).toBe(0);
  });
});

describe("the end of an answer", () => {
  test("comes with a stop id; the step that was planned ahead is wasted, and its id dropped", () => {
    const bench = setUp();
    const { scheduler, step } = bench;
    scheduler.add(request("a", 3, { stopTokenIds: [5] }));
    const first = step();
    const ahead = step();
    expect(scheduler.onSampled(first.id, [5])).toEqual([
      { type: "tokens", requestId: "a", choice: 0, ids: [5] },
      { type: "finish", requestId: "a", choice: 0, reason: "stop" },
    ]);
    expect(used(bench)).toBe(0);
    expect(scheduler.onSampled(ahead.id, [6])).toEqual([]);
    expect(scheduler.schedule(0).plan).toBe(null);
  });

  test("does not come with a stop id before the least number of tokens", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3, { stopTokenIds: [5], minTokens: 1 }));
    expect(finishes(scheduler.onSampled(step().id, [5]))).toEqual([]);
    expect(finishes(scheduler.onSampled(step().id, [5]))).toEqual(["a: stop"]);
  });

  test("comes with the last token; none is planned beyond it", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3, { maxTokens: 2 }));
    const plans = [step(), step()];
    expect(scheduler.schedule(0).plan).toBe(null);
    expect(finishes(scheduler.onSampled(plans[0].id, [1]))).toEqual([]);
    expect(finishes(scheduler.onSampled(plans[1].id, [1]))).toEqual(["a: length"]);
  });

  test("comes when context or KV blocks are full", () => {
    for (const full of [{ limits: { maxModelLen: 12 } }, { blocks: 3 }]) {
      const bench = setUp(full);
      bench.scheduler.add(request("a", 8, { maxTokens: 100 }));
      expect(runAll(bench)).toEqual(["a: length"]);
    }
  });

  test("ids that come for the wrong step, or too few, are a bug", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3));
    const first = step();
    const second = step();
    expect(() => scheduler.onSampled(first.id, [])).toThrow(/expected 1 ids, got 0/);
    expect(() => scheduler.onSampled(second.id, [1])).toThrow(/expects another first/);
  });
});

describe("cancellation", () => {
  const stages: [string, (bench: Bench) => void][] = [
    ["waiting", () => {}],
    ["in a layered prefill", ({ step }) => expect(layeredOf(step())).toBe("a: 0+30 0-2")],
    ["decoding", ({ step }) => expect([step(), step()]).toHaveLength(2)],
    ["paused", ({ scheduler, step }) => [step(), scheduler.pause("a")]],
  ];
  for (const [stage, advance] of stages) {
    test(`frees all blocks of a request that is ${stage}, at once`, () => {
      const bench = setUp();
      bench.scheduler.add(request("a", 30));
      advance(bench);
      bench.scheduler.cancel("a");
      expect(used(bench)).toBe(0);
      expect(bench.scheduler.sequences).toEqual([]);
      expect(bench.scheduler.schedule(0)).toEqual({ plan: null, events: [] });
    });
  }

  test("drops the ids that come after it", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3));
    const { id } = step();
    scheduler.cancel("a");
    expect(scheduler.onSampled(id, [1])).toEqual([]);
  });

  test("ends one answer, and leaves the others", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3, { answerCount: 3 }));
    scheduler.onSampled(step().id, [1, 2, 3]);
    scheduler.cancel("a", 1);
    expect(step().main.map(({ choice }) => choice)).toEqual([0, 2]);
  });

  test("of what is unknown does nothing", () => {
    const { scheduler } = setUp();
    scheduler.cancel("nobody");
    scheduler.pause("nobody");
    scheduler.resume("nobody");
    expect(scheduler.stats()).toMatchObject({ waiting: 0, running: 0, paused: 0, preemptions: 0, steps: 0 });
  });
});

describe("deadlines", () => {
  test("a request whose deadline has passed ends, at whatever stage", () => {
    const bench = setUp();
    const { scheduler, step } = bench;
    scheduler.add(request("a", 3, { deadlineMs: 100 }));
    scheduler.add(request("b", 3, { deadlineMs: 200 }));
    step(99);
    expect(scheduler.schedule(100).events).toEqual([{ type: "expired", requestId: "a" }]);
    expect(scheduler.schedule(250)).toEqual({ plan: null, events: [{ type: "expired", requestId: "b" }] });
    expect(used(bench)).toBe(0);
  });
});

describe("pauses", () => {
  test("a paused request stands still, its ids still come, and it goes on where it was", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3));
    const { id } = step();
    scheduler.pause("a");
    expect(scheduler.schedule(0).plan).toBe(null);
    expect(scheduler.onSampled(id, [4])).toHaveLength(1);
    scheduler.resume("a");
    expect(step().main[0]).toMatchObject({ start: 3, tokenIds: [4] });
  });

  test("a paused request gives its blocks to anybody, and its place", () => {
    for (const scarce of [{ blocks: 4 }, { limits: { maxSequences: 1 } }]) {
      const { scheduler, step } = setUp({ ...scarce, wishes: { prefixCaching: false } });
      scheduler.add(request("a", 8));
      scheduler.onSampled(step().id, [4]);
      scheduler.pause("a");
      scheduler.add(request("b", 12, { maxTokens: 1 }));
      const plan = step();
      expect(mainOf(plan)).toEqual(["b: 0+12"]);
      scheduler.onSampled(plan.id, [1]);
      scheduler.resume("a");
      expect(mainOf(step())).toEqual(["a: 0+9"]);
    }
  });

  test("a paused layered prefill makes way for another", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 30));
    scheduler.add(request("b", 30));
    expect(layeredOf(step())).toBe("a: 0+30 0-2");
    scheduler.pause("a");
    expect(layeredOf(step())).toBe("b: 0+30 0-2");
  });
});

describe("preemption", () => {
  test("takes the blocks of the lowest priority, and of the latest among equals", () => {
    for (const [priorities, winner] of [
      [[0, 0], "a"],
      [[0, 1], "a"],
      [[1, 0], "b"],
    ] as const) {
      const { scheduler, step } = setUp({
        blocks: 6,
        ordering: "priority",
        wishes: { prefixCaching: false },
      });
      scheduler.add(request("a", 8, { priority: priorities[0], maxTokens: 12 }));
      scheduler.add(request("b", 8, { priority: priorities[1], maxTokens: 12 }));
      let plan = step();
      // Both have three blocks, and need a fourth one for their 13th token.
      for (let tokens = 8; tokens < 12; tokens++) {
        scheduler.onSampled(plan.id, [1, 1]);
        plan = step();
        expect(plan.main).toHaveLength(2);
      }
      expect(mainOf(step())).toEqual([`${winner}: 12+1`]);
      expect(scheduler.stats()).toMatchObject({ preemptions: 1, running: 1, waiting: 1 });
    }
  });

  test("a preempted sequence runs its prefix again with the same P, then what it had said, and goes on", () => {
    const { scheduler, step } = setUp({ blocks: 6, wishes: { prefixCaching: false } });
    scheduler.add(request("a", 8, { maxTokens: 12 }));
    scheduler.add(request("b", 6, { maxTokens: 12 }));
    const seen: string[] = [];
    for (let round = 0; round < 40 && scheduler.sequences.length > 0; round++) {
      const plan = step();
      for (const { requestId, start, tokenIds, prefixLength, sampling } of plan.main) {
        if (start === 0)
          seen.push(`${requestId} ${tokenIds.length} P=${prefixLength} step=${sampling[0]?.step}`);
      }
      scheduler.onSampled(
        plan.id,
        plan.main.flatMap(({ sampling }) => sampling.map(({ step }) => step)),
      );
    }
    expect(scheduler.stats().preemptions).toBe(1);
    expect(seen).toEqual(["a 8 P=8 step=0", "b 6 P=6 step=0", "b 11 P=6 step=5"]);
  });

  test("a long output is replayed in chunks behind a prefix that runs along layers", () => {
    const { scheduler, step } = setUp({ limits: { maxBatchedTokens: 8 }, wishes: { prefixCaching: false } });
    scheduler.add(request("a", 20, { maxTokens: 30 }));
    for (let count = 0; count < 22; count++) {
      const plan = step();
      const rows = [...plan.main, ...(plan.layered ? [plan.layered.rectangle] : [])];
      scheduler.onSampled(
        plan.id,
        rows.flatMap(({ sampling }) => sampling.map(() => count)),
      );
    }
    scheduler.pause("a");
    scheduler.add(request("n", 4, { answerCount: 8, maxTokens: 1 }));
    scheduler.onSampled(step().id, new Array<number>(8).fill(1));
    expect(scheduler.stats().preemptions).toBe(1);
    scheduler.resume("a");
    const passes = [step(), step(), step(), step()].map(layeredOf);
    expect(passes).toEqual(["a: 0+20 0-1", "a: 0+20 1-2", "a: 0+20 2-3", "a: 0+20 3-4"]);
    expect([step(), step(), step()].flatMap(mainOf)).toEqual(["a: 20+8", "a: 28+8", "a: 36+3"]);
  });

  test("ids that are on their way when it happens count", () => {
    const { scheduler, step } = setUp({ limits: { maxSequences: 1 } });
    scheduler.add(request("a", 4));
    const { id } = step();
    scheduler.pause("a");
    scheduler.add(request("b", 4, { maxTokens: 1 }));
    const { id: other } = step();
    expect(scheduler.onSampled(id, [9])).toEqual([{ type: "tokens", requestId: "a", choice: 0, ids: [9] }]);
    scheduler.onSampled(other, [1]);
    scheduler.resume("a");
    expect(step().main[0].tokenIds.at(-1)).toBe(9);
  });
});
