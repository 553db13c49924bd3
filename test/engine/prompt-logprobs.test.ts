/** Log-probabilities of a prompt's own tokens: none left out, none twice, however the prompt is cut and interrupted. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { admit } from "../../src/engine/admission.ts";
import { loadEngine, type LoadedEngine } from "../../src/engine/load-engine.ts";
import { logprobsOf } from "../../src/engine/sampling/logprobs.ts";
import type { Observation } from "../../src/engine/step-plan.ts";
import { readVerifyCases, type VerifyCase } from "../../src/engine/verify/cases.ts";
import { CoreHarness, coreRequest, promptOf, vocabSize } from "../support/core-harness.ts";
import { settled } from "../support/fake-runner.ts";
import { type Outcome, ScheduledRun, type ScheduleOptions } from "../support/scheduled-run.ts";
import { ScriptedClient } from "../support/scripted-client.ts";
import { engineOptions, greedy } from "../support/served.ts";
import { shared } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

describe("a reference checkpoint", () => {
  const dir = shared("reference/tiny-llama");
  const blockSize = 2;
  const wide = { blockSize, maxBatchedTokens: 64, maxSequences: 4, numBlocks: 64 };
  let engine: LoadedEngine;
  let longest: VerifyCase;
  /** With nothing cached and nobody beside it. */
  let alone: Outcome;

  beforeAll(async () => {
    const changes = { ...wide, deterministic: true, rotaryFrequencies: "bf16" as const };
    engine = await loadEngine(engineOptions(dir, changes));
    const cases = await readVerifyCases(dir, false);
    longest = cases.reduce((a, b) => (a.promptIds.length > b.promptIds.length ? a : b));
    const run = new ScheduledRun(engine, { prefixCaching: false });
    alone = run.submit(scored("alone"));
    await run.drain();
  });
  afterAll(() => engine.gpu.close());

  const scored = (id: string, n = 1) => {
    const { promptIds } = longest;
    return { id, promptIds, sampling: { ...greedy, maxTokens: 4, promptLogprobs: 3, n } };
  };

  test("has those of its reference logits", () => {
    const { promptIds, promptLogits } = longest;
    const found = alone.prompt?.logprobs ?? [];
    expect(promptIds.length).toBeGreaterThan(16);
    expect(found.map(({ chosen }) => chosen.id)).toEqual(promptIds.slice(1));
    const vocab = (promptLogits as Float32Array).length / promptIds.length;
    found.forEach(({ chosen, top }, at) => {
      const row = (promptLogits as Float32Array).subarray(at * vocab, (at + 1) * vocab);
      const expected = logprobsOf(row, promptIds[at + 1], 3);
      // What verify asks of one log-probability of an exact run.
      expect(Math.abs(chosen.logprob - expected.chosen.logprob)).toBeLessThan(1e-3);
      expect(chosen.rank).toBe(expected.chosen.rank);
      expect(top.map(({ id }) => id)).toEqual(expected.top.map(({ id }) => id));
    });
  });

  const cuts: [string, ScheduleOptions][] = [
    ["tokens of the budget", { maxBatchedTokens: 3 }],
    ["rows of logits", { promptRowsMax: 2 }],
    ["both, a row at a time", { maxBatchedTokens: 3, promptRowsMax: 1 }],
  ];
  test.each(cuts)(
    "has the same bits when it is cut by %s, and when it was cached before",
    async (_name, cut) => {
      const run = new ScheduledRun(engine, cut);
      for (const id of ["first", "second"]) {
        const outcome = run.submit(scored(id));
        await run.settled();
        expect(observed(run, id).length).toBeGreaterThan(longest.promptIds.length / 3 - 1);
        expectWhole(outcome, run);
        expect(outcome.prompt?.cachedTokens).toBe(0);
      }
      const plain = run.submit({ ...scored("plain"), sampling: { ...greedy, maxTokens: 4 } });
      await run.drain();
      expect(plain.prompt?.cachedTokens).toBeGreaterThan(blockSize);
      expect(plain.answers[0].ids).toEqual(alone.answers[0].ids);
    },
  );

  test("has the same bits when it loses its blocks on the way, and takes up what is cached of it", async () => {
    const count = longest.promptIds.length;
    const run = new ScheduledRun(engine, { promptRowsMax: 1, numBlocks: count / blockSize + 6 });
    const decoding = { ...greedy, maxTokens: count, ignoreEos: true };
    run.submit({ id: "growing", promptIds: longest.promptIds.slice(0, 4), sampling: decoding });
    const outcome = run.submit(scored("scored", 2));
    await run.drain();
    expect(run.scheduler.stats().preemptions).toBeGreaterThan(0);
    const starts = run.plans.flatMap(({ main }) =>
      main.filter(({ requestId }) => requestId === "scored").map(({ start }) => start),
    );
    expect(starts.some((start, index) => start < (starts[index - 1] ?? 0))).toBe(true);
    expectWhole(outcome, run);
  });

  /** Each position once and in order, with the bits of the run alone. */
  function expectWhole({ request, prompt }: Outcome, run: ScheduledRun): void {
    const positions = observed(run, request.id).flatMap(({ start, end }) =>
      Array.from({ length: end - start }, (_, index) => start + index),
    );
    expect(positions).toEqual(longest.promptIds.slice(1).map((_, index) => index));
    expect(prompt?.logprobs).toEqual(alone.prompt?.logprobs);
  }
});

function observed({ plans }: Pick<ScheduledRun, "plans">, id: string): Observation[] {
  return plans.flatMap(({ main }) =>
    main.flatMap(({ requestId, observed: found }) => (requestId === id && found ? [found] : [])),
  );
}

describe("the step loop", () => {
  /** All mass on one id, another for each position. */
  const promptLogitsOf = (_id: string, position: number) =>
    Array.from({ length: vocabSize }, (_, id) => (id === 30 + position ? 50 : 0));
  const script = () => 20;

  test("tells of the prompt once, before all answers", async () => {
    const engine = new CoreHarness({ isPrefixLm: false, maxBatchedTokens: 4, script, promptLogitsOf });
    engine.submit(coreRequest("a", { promptIds: promptOf(6, 29), promptLogprobs: 1, n: 2 }));
    engine.submit(coreRequest("b", { promptIds: promptOf(3) }));
    await settled();
    const [first, ...rest] = engine.events.get("a") ?? [];
    expect(rest.map(({ type }) => type)).not.toContain("prompt");
    if (first.type !== "prompt") throw new Error(`expected the prompt first, got ${first.type}`);
    const told = first.logprobs?.map(({ chosen, top }) => [chosen.id, chosen.rank, top[0].id]);
    expect(told).toEqual([30, 31, 32, 33, 34].map((id) => [id, 1, id]));
    expect(engine.events.get("b")?.[0]).toEqual({ type: "prompt", cachedTokens: 0 });
  });

  test("a prompt of one token has none, and costs no rows", async () => {
    const engine = new CoreHarness({ isPrefixLm: false, script, promptLogitsOf });
    engine.submit(coreRequest("a", { promptIds: [5], promptLogprobs: 0 }));
    await settled();
    expect(engine.events.get("a")?.[0]).toEqual({ type: "prompt", cachedTokens: 0, logprobs: [] });
    expect(engine.runner.steps.flatMap(({ wanted }) => wanted)).not.toContain("promptLogits");
  });

  test("a Prefix LM's causal prompt has them as well", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 4, script, promptLogitsOf });
    engine.submit(coreRequest("a", { promptIds: promptOf(6, 29), prefixLength: 0, promptLogprobs: 0 }));
    await settled();
    expect(engine.events.get("a")?.[0]).toMatchObject({ logprobs: { length: 5 } });
  });
});

describe("admission", () => {
  const { model } = new ScriptedClient();
  const request = (prefixLength?: number) =>
    coreRequest("a", { promptIds: [1, 2, 3], prefixLength, promptLogprobs: 0 });

  test.each([[undefined], [1], [3]])("refuses a bidirectional prefix: %s", (prefixLength) => {
    expect(() => admit(request(prefixLength), model)).toThrow("sees itself and its future");
  });

  test("refuses a mean state beside them", () => {
    expect(() => admit({ ...request(0), wantsMeanState: true }, model)).toThrow("got both");
  });

  test("takes a causal prompt", () => {
    expect(admit(request(0), model).sampling.promptLogprobs).toBe(0);
    expect(admit(request(), { ...model, isPrefixLm: false }).sampling.promptLogprobs).toBe(0);
  });
});
