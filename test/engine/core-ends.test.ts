/** How requests end before their time: cancelled, too late, with the core, or by its failure. */
import { describe, expect, test } from "bun:test";
import { DeadlineError, InvalidRequestError } from "../../src/engine/errors.ts";
import { CoreHarness, coreRequest, promptOf } from "../support/core-harness.ts";
import { settled } from "../support/fake-runner.ts";

/** Answers steps as they come until the condition holds. */
async function answerUntil(engine: CoreHarness, isDone: () => boolean): Promise<void> {
  for (let turn = 0; turn < 100 && !isDone(); turn++) {
    for (const { answer, rows } of engine.runner.steps) answer(...rows.map(() => 1));
    await settled();
  }
  expect(isDone()).toBe(true);
}

/** The others got nothing of it, and a request that needs every block there is runs to its end. */
async function expectAllFree(engine: CoreHarness): Promise<void> {
  await answerUntil(engine, () => engine.runner.unread === 0);
  expect(engine.blocksUsed()).toBe(0);
  const { blocks } = engine.kv.stats().groups[0];
  engine.submit(coreRequest("next", { promptIds: promptOf(4 * blocks - 2, 30), maxTokens: 3 }));
  await answerUntil(engine, () => engine.finish("next") !== null);
  expect(engine.ids("next")).toEqual([1, 1, 1]);
  expect(engine.errors.size).toBe(0);
  expect(engine.blocksUsed()).toBe(0);
}

describe("cancel", () => {
  test("of a request that waits", async () => {
    const engine = new CoreHarness({ maxSequences: 1, blockCount: 4 });
    engine.submit(coreRequest("first", { maxTokens: 1 }));
    engine.submit(coreRequest("waiting"));
    engine.core.cancel("waiting");
    engine.runner.steps[0].answer(1);
    await settled();
    expect(engine.finish("first")).toBe("length");
    expect(engine.runner.steps.length).toBe(1);
    expect(engine.events.get("waiting")).toEqual([]);
    await expectAllFree(engine);
  });

  test("during a prefill: the chunks that are left are not run", async () => {
    const engine = new CoreHarness({ isPrefixLm: false, maxBatchedTokens: 8, blockCount: 16 });
    engine.submit(coreRequest("a", { promptIds: promptOf(60) }));
    await settled();
    engine.core.cancel("a");
    await answerUntil(engine, () => engine.runner.unread === 0);
    expect(engine.runner.rectangles.map(({ start }) => start)).toEqual([0, 8]);
    expect(engine.events.get("a")).toEqual([]);
    await expectAllFree(engine);
  });

  test("between the layers of a prefill: the passes that are left are not run, and another may begin", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 8, blockCount: 16 });
    engine.submit(coreRequest("a", { promptIds: promptOf(32) }));
    engine.submit(coreRequest("b", { promptIds: promptOf(16, 40), maxTokens: 1 }));
    engine.core.cancel("a");
    await answerUntil(engine, () => engine.finish("b") !== null);
    const layered = engine.runner.steps.flatMap(({ plan }) => plan.layered ?? []);
    expect(layered.map(({ rectangle, from, to }) => [rectangle.requestId, from, to])).toEqual([
      ["a", 0, 1],
      ["b", 0, 2],
      ["b", 2, 4],
    ]);
    await expectAllFree(engine);
  });

  test("while ids are awaited: they are read and dropped, and blocks are free at once", async () => {
    const engine = new CoreHarness({ blockCount: 8 });
    engine.submit(coreRequest("a", { maxTokens: 7 }));
    const { steps } = engine.runner;
    steps[0].answer(50);
    await settled();
    engine.core.cancel("a");
    expect(engine.blocksUsed()).toBe(0);
    expect(engine.runner.unread).toBe(1);
    await answerUntil(engine, () => engine.runner.unread === 0);
    expect(steps.length).toBe(3);
    expect(engine.events.get("a")?.map(({ type }) => type)).toEqual(["prompt", "tokens"]);
    await expectAllFree(engine);
  });

  test("of one answer: the others go on", async () => {
    const engine = new CoreHarness({ blockCount: 16 });
    engine.submit(coreRequest("a", { n: 3, maxTokens: 5 }), (event) => {
      if (event.type === "tokens" && event.choice === 1 && engine.ids("a", 1).length === 2)
        engine.core.cancel("a", 1);
    });
    await answerUntil(engine, () => engine.finish("a", 2) !== null);
    expect([0, 1, 2].map((choice) => engine.ids("a", choice).length)).toEqual([5, 2, 5]);
    expect([0, 1, 2].map((choice) => engine.finish("a", choice))).toEqual(["length", null, "length"]);
    await expectAllFree(engine);
  });

  test("of an answer before it has begun: it says nothing, and ends with the others", async () => {
    const engine = new CoreHarness({ blockCount: 16, maxSequences: 3 });
    engine.submit(coreRequest("first", { n: 3, maxTokens: 1 }));
    engine.submit(coreRequest("a", { n: 2, maxTokens: 5, stopTokenIds: [50] }));
    engine.core.cancel("a", 0);
    for (let step = 0; step < 3; step++) {
      const { rows, answer } = engine.runner.steps[step];
      answer(...rows.map(({ requestId, choice }) => (requestId === "a" && choice === 1 ? 50 : 1)));
      await settled();
    }
    expect(engine.eventsOf("a", 0)).toEqual([]);
    expect([engine.ids("a", 1), engine.finish("a", 1)]).toEqual([[50], "stop"]);
    await expectAllFree(engine);
  });

  test("of every answer by itself, before any has begun, is a cancel of the request", async () => {
    const engine = new CoreHarness({ blockCount: 8, maxSequences: 2 });
    engine.submit(coreRequest("first", { maxTokens: 2 }));
    engine.submit(coreRequest("a", { n: 2 }));
    for (const choice of [0, 1]) engine.core.cancel("a", choice);
    await answerUntil(engine, () => engine.finish("first") !== null);
    expect(engine.runner.rectanglesOf("a")).toEqual([]);
    await expectAllFree(engine);
  });

  test("from within an event: nothing more is emitted", async () => {
    const engine = new CoreHarness({ blockCount: 8 });
    engine.submit(coreRequest("a", { maxTokens: 1 }), () => engine.core.cancel("a"));
    engine.submit(coreRequest("b", { maxTokens: 1, promptIds: promptOf(6) }), ({ type }) => {
      if (type === "tokens") engine.core.cancel("b", 0);
    });
    await answerUntil(engine, () => engine.ids("b").length > 0);
    const prompt = { type: "prompt" as const, cachedTokens: 0 };
    expect(engine.events.get("a")).toEqual([prompt]);
    expect(engine.events.get("b")).toEqual([prompt, { type: "tokens", choice: 0, ids: [1] }]);
    await expectAllFree(engine);
  });

  test("of an unknown request or answer does nothing", async () => {
    const engine = new CoreHarness({ script: () => 1 });
    engine.core.cancel("nobody");
    engine.core.cancel("nobody", 3);
    engine.submit(coreRequest("a"));
    engine.core.cancel("a", 5);
    await settled();
    expect(engine.finish("a")).toBe("length");
  });
});

describe("a deadline", () => {
  test("that passes fails the request alone, and frees its blocks", async () => {
    const engine = new CoreHarness({ blockCount: 16 });
    engine.submit(coreRequest("late", { maxTokens: 9, deadlineMs: 100 }));
    engine.submit(coreRequest("b", { maxTokens: 6, promptIds: promptOf(6) }));
    engine.nowMs = 99;
    await settled();
    engine.runner.steps[0].answer(1);
    await settled();
    expect(engine.errors.size).toBe(0);
    engine.nowMs = 100;
    await answerUntil(engine, () => engine.finish("b") !== null);
    expect(engine.errors.get("late")).toBeInstanceOf(DeadlineError);
    expect(String(engine.errors.get("late"))).toContain("Cannot finish request late");
    expect(engine.ids("late").length).toBeLessThan(4);
    expect(engine.finish("late")).toBeNull();
    engine.errors.clear();
    await expectAllFree(engine);
  });

  test("that passed before the start", async () => {
    const engine = new CoreHarness();
    engine.nowMs = 100;
    engine.submit(coreRequest("late", { deadlineMs: 100 }));
    await settled();
    expect(engine.errors.get("late")).toBeInstanceOf(DeadlineError);
    expect(engine.runner.steps).toEqual([]);
  });
});

describe("close", () => {
  test("waits for the steps under way, ends all requests without a word, and runs no more of them", async () => {
    const engine = new CoreHarness({ maxSequences: 1 });
    engine.submit(coreRequest("running", { maxTokens: 9 }));
    engine.submit(coreRequest("waiting"));
    const { steps } = engine.runner;
    steps[0].answer(50);
    await settled();
    let isClosed = false;
    const closing = engine.core.close().then(() => (isClosed = true));
    for (const index of [1, 2]) {
      await settled();
      expect(isClosed).toBe(false);
      steps[index].answer(51);
    }
    await closing;
    expect(steps.length).toBe(3);
    expect(steps.every(({ isRead }) => isRead)).toBe(true);
    expect(engine.ids("running")).toEqual([50]);
    expect([engine.finish("running"), engine.finish("waiting")]).toEqual([null, null]);
    expect(engine.blocksUsed()).toBe(0);
  });

  test("of an idle core is done at once", async () => {
    await new CoreHarness().core.close();
  });
});

describe("errors", () => {
  test("a request that can never run is refused at once, and leaves nothing behind", async () => {
    const engine = new CoreHarness({ blockCount: 4, maxSequences: 2, script: () => 1 });
    const refused = (changes: Parameters<typeof coreRequest>[1]) => () =>
      engine.submit(coreRequest("a", changes));
    expect(refused({ promptIds: promptOf(16) })).toThrow("a prompt of at most 15 tokens");
    expect(refused({ n: 3 })).toThrow(InvalidRequestError);
    expect(refused({ allowedTokenIds: [64] })).toThrow(RangeError);
    engine.submit(coreRequest("a"));
    await settled();
    expect(engine.finish("a")).toBe("length");
    expect(engine.core.hasFailed).toBe(false);
  });

  test("a step that fails fails everybody, and who comes later", async () => {
    const engine = new CoreHarness({ maxSequences: 2 });
    for (const id of ["a", "b", "waiting"]) engine.submit(coreRequest(id));
    const gone = new Error("the step failed");
    engine.runner.steps[0].fail(gone);
    await settled();
    for (const id of ["a", "b", "waiting"]) expect(engine.errors.get(id)).toBe(gone);
    expect([...engine.events.values()]).toEqual([[], [], []]);
    expect(engine.core.hasFailed).toBe(true);
    expect(() => engine.submit(coreRequest("late"))).toThrow(gone);
    expect(engine.runner.steps.length).toBe(2);
    expect(engine.blocksUsed()).toBe(0);
    await engine.core.close();
  });

  test("so does one that cannot be submitted, at the first step or later", async () => {
    for (const failing of [1, 3]) {
      let steps = 0;
      const onRun = () => {
        if (++steps === failing) throw new RangeError("over a limit");
      };
      const engine = new CoreHarness({ onRun, script: () => 1 });
      engine.submit(coreRequest("a"));
      await settled();
      expect(engine.errors.get("a")).toBeInstanceOf(RangeError);
      expect(engine.finish("a")).toBeNull();
      expect(engine.core.hasFailed).toBe(true);
      await engine.core.close();
    }
  });
});
