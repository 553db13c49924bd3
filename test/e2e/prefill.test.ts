/**
 * What a prompt costs a Prefix LM on the real engine: however long, it is run along layers while others decode; one
 * that was run before is not run again, nor for each of several answers. Counted in tokens times layer passes.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { GenerationRequest } from "../../src/engine/client.ts";
import { loadEngine, type LoadedEngine } from "../../src/engine/load-engine.ts";
import { longPrompt, prefixLm, promptOf } from "../support/golden.ts";
import { type Outcome, runAlone, ScheduledRun, stepsOf, workOf } from "../support/scheduled-run.ts";
import { engineOptions, greedy } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

let engine: LoadedEngine;
let passes: number;
beforeAll(async () => {
  const limits = { maxBatchedTokens: 512, maxSequences: 8, deterministic: true };
  engine = await loadEngine(engineOptions(prefixLm.dir, limits));
  passes = engine.runner.passCount;
});
afterAll(() => engine.gpu.close());

function request(
  id: string,
  promptIds: readonly number[],
  changes: Partial<GenerationRequest["sampling"]> = {},
): GenerationRequest {
  return { id, promptIds, sampling: { ...greedy, maxTokens: 4, ...changes } };
}

/** Work on the prompt of a request. */
function promptWork(run: ScheduledRun, { request: { id, promptIds } }: Outcome): number {
  return workOf(run, ({ requestId, start }) => requestId === id && start < promptIds.length);
}

describe("a prompt of 450 tokens", () => {
  const prompt = longPrompt(450);
  let whole: ScheduledRun;
  let first: Outcome;
  let second: Outcome;
  const ttftMs: number[] = [];
  beforeAll(async () => {
    whole = new ScheduledRun(engine, { hashesRows: true });
    const timed = async (id: string) => {
      const startMs = performance.now();
      const outcome = whole.submit(request(id, prompt, { maxTokens: 1 }));
      await outcome.done;
      ttftMs.push(performance.now() - startMs);
      return outcome;
    };
    first = await timed("first");
    second = await timed("second");
    await whole.drain();
  });

  test("is run in one step where the budget allows it", () => {
    expect(whole.plans[0].main.map(({ tokenIds }) => tokenIds.length)).toEqual([450]);
  });

  test("with a budget of 64 tokens a step has the same bits, and others go on meanwhile", async () => {
    const run = new ScheduledRun(engine, { maxBatchedTokens: 64, hashesRows: true });
    const others = [7, 8, 9].map((length) =>
      request(`short ${length}`, promptOf(length), { maxTokens: 20, ignoreEos: true }),
    );
    const short = others.map((other) => run.submit(other));
    run.beforeStep = (planned) => {
      if (planned === 6 && !run.outcomes.has("long")) run.submit(request("long", prompt, { maxTokens: 1 }));
    };
    await run.drain();
    expect(bitsOf(run.outcomes.get("long"))).toEqual(bitsOf(first));

    const cuts = run.plans.flatMap(({ layered }) => (layered ? [[layered.from, layered.to]] : []));
    expect(cuts).toEqual(Array.from({ length: passes }, (_, pass) => [pass, pass + 1]));
    for (const { cost } of run.plans) expect(cost).toBeLessThanOrEqual(64);
    for (const {
      request: { id },
      answers: [{ ids }],
    } of short) {
      expect(ids.length).toBe(20);
      expectConsecutive(stepsOf(run, id));
    }
  });

  test("costs one token the second time, and little time", () => {
    expect(bitsOf(second)).toEqual(bitsOf(first));
    expect([first, second].map((outcome) => promptWork(whole, outcome))).toEqual([450 * passes, passes]);
    const [firstMs, secondMs] = ttftMs.map(Math.round);
    console.log(
      `time to first token: ${firstMs} ms, then ${secondMs} ms: ${(secondMs / firstMs).toFixed(4)} of it`,
    );
  });
});

/** Of its first answer. */
function bitsOf(outcome: Outcome | undefined) {
  return [outcome?.answers[0].ids, outcome?.answers[0].rows];
}

function expectConsecutive(steps: readonly number[]): void {
  expect(steps).toEqual(steps.map((_, index) => steps[0] + index));
}

describe("a prompt that others have too", () => {
  const prompt = promptOf(10);

  test("is prefilled once for 4 answers, each what a request of its own would get", async () => {
    const sampling = { temperature: 1, seed: 5n, ignoreEos: true, maxTokens: 6 };
    const run = new ScheduledRun(engine, { hashesRows: true });
    const four = run.submit(request("four", prompt, { ...sampling, n: 4 }));
    await run.drain();
    expect(promptWork(run, four)).toBe(10 * passes);
    expect(new Set(four.answers.map(({ ids }) => ids.join())).size).toBe(4);
    for (const [choice, { ids, rows }] of four.answers.entries()) {
      const one = await runAlone(engine, request("one", prompt, { ...sampling, seed: 5n + BigInt(choice) }));
      expect([ids, rows]).toEqual([one.answers[0].ids, one.answers[0].rows]);
    }
  });

  test("is shared within a salt only", async () => {
    const run = new ScheduledRun(engine);
    const works: number[] = [];
    for (const [index, cacheSalt] of ["a", "b", "a", "b", undefined].entries()) {
      const outcome = run.submit({ ...request(`${index}`, prompt, { maxTokens: 1 }), cacheSalt });
      await outcome.done;
      works.push(promptWork(run, outcome) / passes);
    }
    await run.drain();
    expect(works).toEqual([10, 10, 1, 1, 10]);
  });

  test("is not shared with a request that reads it in another way", async () => {
    const run = new ScheduledRun(engine);
    const works: number[] = [];
    for (const prefixLength of [10, 9, 0, 10]) {
      const outcome = run.submit({ ...request(`${works.length}`, prompt, { maxTokens: 1 }), prefixLength });
      await outcome.done;
      works.push(promptWork(run, outcome) / passes);
    }
    await run.drain();
    expect(works).toEqual([10, 10, 10, 1]);
  });

  test("is run again when prefix caching is off", async () => {
    const run = new ScheduledRun(engine, { prefixCaching: false });
    const outcomes = ["a", "b"].map((id) => run.submit(request(id, prompt, { maxTokens: 1 })));
    await run.drain();
    expect(outcomes.map((outcome) => promptWork(run, outcome))).toEqual([10 * passes, 10 * passes]);
  });
});
