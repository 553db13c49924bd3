/** What the engine tells of itself: over the real scheduler and KV manager, and through the thread's messages. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { EngineDeadError } from "../../src/engine/errors.ts";
import { defaultEngineOptions } from "../../src/engine/load-engine.ts";
import { WorkerEngineClient } from "../../src/engine/worker-client.ts";
import { STATS_STEPS_MAX } from "../../src/limits.ts";
import { CoreHarness, coreRequest, promptOf } from "../support/core-harness.ts";
import { settled } from "../support/fake-runner.ts";
import { FakeThread } from "../support/fake-thread.ts";
import { idleStats } from "../support/scripted-client.ts";
import { rejection } from "../support/rejection.ts";
import { project } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const one = () => 1;

describe("the core's numbers", () => {
  test("tokens are counted when they come, the prompt with the first", async () => {
    const engine = new CoreHarness();
    engine.submit(coreRequest("a", { promptIds: promptOf(10), n: 2 }));
    await settled();
    expect(engine.core.stats()).toMatchObject({
      running: 2,
      waiting: 0,
      promptTokens: 0,
      generationTokens: 0,
    });
    engine.runner.steps[0].answer(50, 51);
    await settled();
    expect(engine.core.stats()).toMatchObject({ promptTokens: 10, generationTokens: 2 });
  });

  test("the second of equal prompts is a hit of the prefix cache; one under another salt is not", async () => {
    const engine = new CoreHarness({ script: one });
    for (const [id, cacheSalt] of [["a"], ["b"], ["c", "other"]]) {
      engine.submit(coreRequest(id, { promptIds: promptOf(10), cacheSalt }));
      await settled();
    }
    // The last token of a whole prefix is run again, for its logits.
    expect(engine.core.stats().prefixCache).toEqual({ queryTokens: 30, hitTokens: 9 });
  });

  test("blocks are used, then cached; the counts add up", async () => {
    const engine = new CoreHarness({ blockCount: 32 });
    engine.submit(coreRequest("a", { promptIds: promptOf(10), maxTokens: 1 }));
    await settled();
    expect(engine.core.stats().kvBlocks).toEqual([{ used: 3, cached: 0, free: 29, total: 32 }]);
    engine.runner.steps[0].answer(50);
    await settled();
    expect(engine.core.stats().kvBlocks).toEqual([{ used: 0, cached: 3, free: 29, total: 32 }]);
  });

  test("steps that are done are listed with their rectangles, without the request's id", async () => {
    const engine = new CoreHarness({ script: one, maxBatchedTokens: 8, passCount: 4 });
    engine.nowMs = 7;
    engine.submit(coreRequest("secret", { promptIds: promptOf(16), maxTokens: 2 }));
    await settled();
    const { steps, recentSteps } = engine.core.stats();
    expect(steps).toBe(3);
    expect(recentSteps.map(({ index, submitMs, doneMs }) => [index, submitMs, doneMs])).toEqual([
      [1, 7, 7],
      [2, 7, 7],
      [3, 7, 7],
    ]);
    const rectangles = recentSteps.flatMap((step) => step.rectangles);
    expect(rectangles.map(({ kind, tokens, passes }) => [kind, tokens, passes])).toEqual([
      ["layered", [0, 16], [0, 2]],
      ["layered", [0, 16], [2, 4]],
      ["decode", [16, 17], [0, 4]],
    ]);
    expect(new Set(rectangles.map(({ sequence }) => sequence)).size).toBe(1);
    expect(rectangles[0].sequence).toMatch(/^[0-9a-f]{8}$/);
  });

  test("of many steps the last are kept", async () => {
    const engine = new CoreHarness({ script: one });
    engine.submit(coreRequest("a", { maxTokens: 100 }));
    while (engine.finish("a") === null) await settled();
    const { recentSteps } = engine.core.stats();
    expect(recentSteps.length).toBe(STATS_STEPS_MAX);
    expect(recentSteps[0].index).toBeGreaterThan(100 - STATS_STEPS_MAX);
  });
});

describe("over the thread", () => {
  async function open() {
    const thread = new FakeThread();
    const engine = { ...defaultEngineOptions, modelDir: project("models/hrm-text-tiny") };
    const createWorker = () => thread.worker;
    const client = await WorkerEngineClient.start({ engine, modelName: "m", created: 0, createWorker });
    return { thread, client };
  }

  test("each who asks gets an answer of its own", async () => {
    const { thread, client } = await open();
    const [first, second] = [client.stats(), client.stats()];
    expect(thread.sent.filter(({ type }) => type === "stats").length).toBe(2);
    thread.say({ type: "stats", stats: { ...idleStats, running: 1 } });
    thread.say({ type: "stats", stats: { ...idleStats, running: 2 } });
    expect([(await first).running, (await second).running]).toEqual([1, 2]);
    await client.close();
  });

  test("who waits when the engine dies is told so, and who comes later", async () => {
    const { thread, client } = await open();
    const waiting = rejection(client.stats());
    thread.say({ type: "dead", error: { name: "Error", message: "the device is gone" } });
    expect(await waiting).toBeInstanceOf(EngineDeadError);
    expect(await rejection(client.stats())).toBeInstanceOf(EngineDeadError);
    await client.close();
  });
});
