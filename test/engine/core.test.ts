/** The step loop over the real scheduler: what it runs when, and what becomes of the ids. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { sampledRow } from "../../src/engine/step-plan.ts";
import { CoreHarness, coreRequest, promptOf } from "../support/core-harness.ts";
import { settled } from "../support/fake-runner.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const one = () => 1;

describe("prefill", () => {
  test("a Prefix LM's whole prompt is one rectangle, its prefix the whole prompt", async () => {
    const engine = new CoreHarness({ script: one });
    engine.submit(coreRequest("a", { promptIds: promptOf(30) }));
    await settled();
    const prefill = { tokenIds: promptOf(30), start: 0, writeStart: 0, prefixLength: 30, logits: "last" };
    expect(engine.runner.rectangles[0]).toMatchObject(prefill);
    expect(engine.finish("a")).toBe("length");
  });

  test("a prefix over the budget is cut along passes, never along tokens, and sampled at its end", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 8, passCount: 4, script: one });
    engine.submit(coreRequest("a", { promptIds: promptOf(16), maxTokens: 2 }));
    await settled();
    const layered = engine.runner.steps.flatMap(({ plan }) => plan.layered ?? []);
    expect(layered.map(({ from, to }) => [from, to])).toEqual([
      [0, 2],
      [2, 4],
    ]);
    expect(layered.map(({ rectangle }) => rectangle.tokenIds)).toEqual([promptOf(16), promptOf(16)]);
    expect(layered.map(({ rectangle }) => rectangle.sampling.length)).toEqual([0, 1]);
    expect(engine.ids("a")).toEqual([1, 1]);
  });

  test("an id of the layered batch is waited for, not referred to", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 8 });
    engine.submit(coreRequest("a", { promptIds: promptOf(16) }));
    const { steps } = engine.runner;
    for (let step = 0; step < 2; step++) {
      await settled();
      expect(steps.length).toBe(2);
      steps[step].answer(...steps[step].rows.map(() => 50));
    }
    await settled();
    expect(steps[2].plan.main.map(({ tokenIds }) => tokenIds)).toEqual([[50]]);
  });

  test("a causal prompt is cut into full steps, and only the last one samples", async () => {
    const engine = new CoreHarness({ isPrefixLm: false, maxBatchedTokens: 4, maxSequences: 4, script: one });
    engine.submit(coreRequest("a", { promptIds: promptOf(10), maxTokens: 1 }));
    await settled();
    const chunks = engine.runner.rectangles;
    expect(chunks.map(({ start, tokenIds }) => [start, tokenIds])).toEqual([
      [0, promptOf(10).slice(0, 4)],
      [4, promptOf(10).slice(4, 8)],
      [8, promptOf(10).slice(8)],
    ]);
    expect(chunks.map(({ logits }) => logits)).toEqual(["none", "none", "last"]);
    expect(engine.finish("a")).toBe("length");
  });

  test("behind a prefix the rest of the prompt may be cut", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 6, maxSequences: 4, script: one });
    engine.submit(coreRequest("a", { promptIds: promptOf(15), prefixLength: 5, maxTokens: 1 }));
    await settled();
    const cuts = engine.runner.rectangles.map(({ start, tokenIds }) => [start, tokenIds.length]);
    expect(cuts).toEqual([
      [0, 6],
      [6, 6],
      [12, 3],
    ]);
    expect(engine.runner.rectangles.map(({ prefixLength }) => prefixLength)).toEqual([5, 5, 5]);
  });

  test.each([
    [true, undefined, 5],
    [true, 3, 3],
    [true, 0, 0],
    [false, undefined, 0],
    [false, 3, 0],
  ])(
    "prefix of a Prefix LM (%s) asked for %s is %s in every step",
    async (isPrefixLm, prefixLength, expected) => {
      const engine = new CoreHarness({ isPrefixLm, script: one });
      engine.submit(coreRequest("a", { prefixLength, maxTokens: 4 }));
      await settled();
      expect(engine.runner.rectangles.map((rectangle) => rectangle.prefixLength)).toEqual(
        Array.from({ length: 4 }, () => expected),
      );
    },
  );
});

describe("decode", () => {
  test("a step is submitted before the ids of the one before are read, and no more than two are under way", async () => {
    const engine = new CoreHarness();
    engine.submit(coreRequest("a", { maxTokens: 9 }));
    const { steps, rectangles } = engine.runner;
    expect(rectangles.length).toBe(1);
    await settled();
    expect(steps.map(({ isRead }) => isRead)).toEqual([true, false]);
    expect(engine.ids("a")).toEqual([]);
    steps[0].answer(50);
    await settled();
    expect(steps.map(({ isRead }) => isRead)).toEqual([true, true, false]);
    expect(engine.ids("a")).toEqual([50]);
    expect(steps[1].plan.main).toMatchObject([{ tokenIds: [sampledRow(0)], start: 5, logits: "last" }]);
  });

  test("ids that come out of turn are handed on in turn", async () => {
    const engine = new CoreHarness();
    engine.submit(coreRequest("a", { maxTokens: 2 }));
    const { steps } = engine.runner;
    await settled();
    steps[1].answer(51);
    await settled();
    expect(engine.ids("a")).toEqual([]);
    steps[0].answer(50);
    await settled();
    expect(engine.ids("a")).toEqual([50, 51]);
  });

  test("positions and the counter of random numbers go up by one a token", async () => {
    const engine = new CoreHarness({ script: ({ step }) => 50 + step });
    engine.submit(coreRequest("a", { maxTokens: 4, temperature: 0.5, topK: 3, topP: 0.9, minP: 0.1 }));
    await settled();
    expect(engine.ids("a")).toEqual([50, 51, 52, 53]);
    const { rectangles } = engine.runner;
    expect(rectangles.map(({ start }) => start)).toEqual([0, 5, 6, 7]);
    const settings = { temperature: 0.5, topK: 3, topP: 0.9, minP: 0.1, seed: 7n };
    expect(rectangles.map(({ sampling }) => sampling)).toEqual(
      [0, 1, 2, 3].map((step) => [{ ...settings, step }]),
    );
  });

  test("requests share steps; each token comes from its own row, whoever comes and goes", async () => {
    const engine = new CoreHarness({ script: ({ requestId, step }) => (requestId === "a" ? 20 : 40) + step });
    engine.submit(coreRequest("a", { maxTokens: 3 }));
    engine.submit(coreRequest("b", { maxTokens: 5, promptIds: promptOf(7) }));
    await settled();
    expect(engine.ids("a")).toEqual([20, 21, 22]);
    expect(engine.ids("b")).toEqual([40, 41, 42, 43, 44]);
    const batches = engine.runner.steps.map(({ plan }) =>
      plan.main.map(({ requestId }) => requestId).join(""),
    );
    expect(batches).toEqual(["a", "ab", "ab", "b", "b", "b"]);
    const fed = engine.runner.rectanglesOf("b").map(({ tokenIds }) => tokenIds[0]);
    // Its own prefill, then row 1 of the batch with a, then row 0 alone.
    expect(fed).toEqual([promptOf(7)[0], sampledRow(1), sampledRow(1), sampledRow(0), sampledRow(0)]);
  });

  test("a request that comes while steps are under way joins the next", async () => {
    const engine = new CoreHarness();
    engine.submit(coreRequest("a", { maxTokens: 9 }));
    await settled();
    engine.submit(coreRequest("b", { promptIds: promptOf(6) }));
    engine.runner.steps[0].answer(1);
    await settled();
    expect(engine.runner.steps[2].plan.main.map(({ requestId }) => requestId)).toEqual(["a", "b"]);
  });

  test("a request with penalties is planned when its ids are known; another goes on every step", async () => {
    const engine = new CoreHarness();
    engine.submit(coreRequest("penalised", { maxTokens: 4, penalties: { frequency: 1 } }));
    engine.submit(coreRequest("plain", { maxTokens: 9, promptIds: promptOf(6) }));
    const { steps } = engine.runner;
    for (let step = 0; step < 6; step++) {
      await settled();
      expect(steps.filter(({ isRead }) => !isRead).length).toBe(1);
      steps[step].answer(
        ...steps[step].rows.map(({ requestId, step: count }) => {
          return (requestId === "plain" ? 40 : 20) + count;
        }),
      );
    }
    await settled();
    const planned = (id: string) =>
      steps.map(({ plan }) => plan.main.some(({ requestId }) => requestId === id));
    expect(planned("penalised").slice(0, 7)).toEqual([true, false, true, false, true, false, true]);
    expect(planned("plain").slice(1, 7)).toEqual([true, true, true, true, true, true]);
    const fed = engine.runner.rectanglesOf("penalised").map(({ tokenIds }) => tokenIds);
    expect(fed.slice(1)).toEqual([[20], [21], [22]]);
  });
});

describe("a slow reader's request", () => {
  test("is not planned while it is paused, and goes on where it was; another is not held up", async () => {
    const engine = new CoreHarness({ script: ({ step }) => 20 + step });
    engine.submit(coreRequest("slow", { maxTokens: 40 }), () => {
      if (engine.ids("slow").length === 3) engine.core.pause("slow");
    });
    engine.submit(coreRequest("b", { maxTokens: 30, promptIds: promptOf(6) }));
    await settled();
    while (engine.finish("b") === null) await settled();
    const taken = engine.ids("slow").length;
    expect(taken).toBeLessThan(6);
    expect(engine.scheduler.stats()).toMatchObject({ running: 0, paused: 1 });
    engine.core.resume("slow");
    while (engine.finish("slow") === null) await settled();
    expect(engine.ids("slow")).toEqual(Array.from({ length: 40 }, (_, step) => 20 + step));
  });
});

describe("many requests", () => {
  test("a hundred, in a pool for few, all get their own ids, and no block is left over", async () => {
    const script = ({ requestId, step }: { requestId: string; step: number }) =>
      (Number(requestId) * 3 + step) % 60;
    const engine = new CoreHarness({ blockCount: 12, maxBatchedTokens: 16, maxSequences: 8, script });
    const ids = Array.from({ length: 100 }, (_, index) => index);
    for (const id of ids) {
      engine.submit(
        coreRequest(`${id}`, { promptIds: promptOf(3 + (id % 20), id), maxTokens: 12, ignoreEos: true }),
      );
    }
    for (let turn = 0; turn < 200 && ids.some((id) => engine.finish(`${id}`) === null); turn++)
      await settled();
    for (const id of ids) {
      expect(engine.ids(`${id}`)).toEqual(
        Array.from({ length: 12 }, (_, step) => script({ requestId: `${id}`, step })),
      );
    }
    expect(engine.scheduler.stats().preemptions).toBeGreaterThan(0);
    expect(engine.errors.size).toBe(0);
    expect(engine.blocksUsed()).toBe(0);
  });

  test("one that comes the moment the loop runs dry is served", async () => {
    for (let microtasks = 0; microtasks < 12; microtasks++) {
      const engine = new CoreHarness({ script: one });
      const submitLater = async () => {
        for (let turn = 0; turn < microtasks; turn++) await Promise.resolve();
        engine.submit(coreRequest("b"));
      };
      let isLater = Promise.resolve();
      engine.submit(coreRequest("a"), ({ type }) => {
        if (type === "finish") isLater = submitLater();
      });
      await settled();
      await isLater;
      expect([microtasks, engine.finish("b")]).toEqual([microtasks, "length"]);
    }
  });
});

describe("the timeline", () => {
  test("gets every step once, in order, with its rectangles and what was there when it was planned", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 8, isTraced: true, script: one });
    engine.submit(coreRequest("a", { promptIds: promptOf(16), maxTokens: 2 }));
    engine.submit(coreRequest("b", { promptIds: promptOf(3), maxTokens: 2, n: 2 }));
    await settled();
    const { traced } = engine;
    expect(traced.map(({ index }) => index)).toEqual(engine.runner.steps.map((_, index) => index + 1));
    const kinds = traced.flatMap(({ rectangles }) =>
      rectangles.map(({ sequence, kind }) => `${sequence} ${kind}`),
    );
    expect(kinds.toSorted()).toEqual(
      ["a 0 decode", "a 0 layered", "a 0 layered", "b 0 decode", "b 0 prefill", "b 1 decode"].toSorted(),
    );
    expect(traced[0].counters).toMatchObject({ running: 1, waiting: 0 });
    expect(traced[0].rectangles).toEqual([
      { sequence: "a 0", kind: "layered", tokens: [0, 16], passes: [0, 2] },
    ]);
  });

  test("times a step from its submission until its ids are there", async () => {
    const engine = new CoreHarness({ isTraced: true });
    engine.nowMs = 10;
    engine.submit(coreRequest("a", { maxTokens: 1 }));
    await settled();
    expect(engine.traced).toEqual([]);
    engine.nowMs = 17;
    engine.runner.steps[0].answer(1);
    await settled();
    expect(engine.traced.map(({ submitMs, doneMs }) => [submitMs, doneMs])).toEqual([[10, 17]]);
  });
});
