/**
 * Continuous batching on a real model: whatever a request shares its steps, its blocks and its prefix with, and however
 * often it is cut, preempted and resumed, it gets the tokens that it gets alone, from the same bits.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadEngine, type LoadedEngine } from "../../src/engine/load-engine.ts";
import type { Rectangle } from "../../src/engine/step-plan.ts";
import type { WorkerEngineClient } from "../../src/engine/worker-client.ts";
import { seededIntegers } from "../engine/text/support.ts";
import { causalModel, type GoldenModel, prefixLm } from "../support/golden.ts";
import { type Answer, type Outcome, runAlone, ScheduledRun } from "../support/scheduled-run.ts";
import { engineOptions, startEngine } from "../support/served.ts";
import { type Arrival, type Ask, asksOf, play, workload } from "../support/workload.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

/** Decodes leave the least to prefills, and blocks are so few that a growing answer takes them from others. */
const tight = {
  prefixLm: { maxBatchedTokens: 2, maxSequences: 6, numBlocks: 16, maxTokens: 8 },
  causal: { maxBatchedTokens: 3, maxSequences: 6, numBlocks: 20, maxTokens: 16 },
};
const blockSize = 2;
/** Enough for a queue; the software adapter takes its time. */
const clientRequests = 12;

for (const model of [prefixLm, causalModel()]) describe(`${model.name} under load`, () => underLoad(model));

function underLoad({ dir, prompts, isPrefixLm }: GoldenModel): void {
  const { maxTokens, ...limits } = isPrefixLm ? tight.prefixLm : tight.causal;
  const asks = asksOf(prompts, maxTokens);
  const arrivals = workload({ count: 32, asks, random: seededIntegers(1), gapSteps: 2, cancelSteps: 200 });
  const alone = new Map<Ask, Answer[]>();
  let engine: LoadedEngine;
  beforeAll(async () => {
    const wide = { blockSize, maxBatchedTokens: 64, maxSequences: 8, numBlocks: 64 };
    engine = await loadEngine(engineOptions(dir, { ...wide, deterministic: true }));
    for (const ask of asks) alone.set(ask, (await runAlone(engine, { id: "alone", ...ask })).answers);
  });
  afterAll(() => engine.gpu.close());

  test("32 requests in flight have the bits that each has alone", async () => {
    const run = new ScheduledRun(engine, { ...limits, hashesRows: true });
    await play(run, arrivals);
    expect(run.requestsMax).toBe(32);
    expectTightness(run, isPrefixLm);
    for (const { request, ask, cancelStep } of arrivals) {
      const { answers } = run.outcomes.get(request.id) as Outcome;
      const whole = alone.get(ask) as Answer[];
      const expected = cancelStep === null ? whole : whole.map((answer, i) => cutAt(answer, answers[i]));
      expect(answers.map(bitsOf)).toEqual(expected.map(bitsOf));
    }
  });

  test("through its thread, without --deterministic, they have the tokens that each has alone", async () => {
    const limits = { blockSize, maxBatchedTokens: 8, maxSequences: 8, numBlocks: 20 };
    const client = await startEngine(dir, limits);
    try {
      const sent = arrivals.slice(0, clientRequests);
      const outputs = await Promise.all(sent.map((arrival) => clientIds(client, arrival)));
      outputs.forEach((ids, index) => {
        const { ask, cancelStep } = sent[index];
        const expected = (alone.get(ask) as Answer[]).map((answer) => answer.ids);
        const came = expected.map((all, choice) => all.slice(0, ids[choice].length));
        expect(ids).toEqual(cancelStep === null ? expected : came);
      });
    } finally {
      await client.close();
    }
  });
}

/** Ids by choice. A request that is to be cancelled is so when its first id has come. */
async function clientIds(client: WorkerEngineClient, { request, cancelStep }: Arrival): Promise<number[][]> {
  const stop = new AbortController();
  const ids = Array.from({ length: request.sampling.n ?? 1 }, (): number[] => []);
  try {
    for await (const event of client.submit(request, stop.signal)) {
      if (event.type === "text") ids[event.choice].push(...event.tokenIds);
      if (cancelStep !== null) stop.abort(cancelled);
    }
  } catch (error) {
    if (error !== cancelled) throw error;
  }
  return ids;
}

const cancelled = new Error("cancelled by the test");

/** Ids, and the logits each was chosen from. */
function bitsOf({ ids, rows, reason }: Answer) {
  return { bits: ids.map((id, index) => ({ id, logits: rows[index] ?? "none" })), reason };
}

/** As far as a cancelled answer came. */
function cutAt(answer: Answer, { ids, reason }: Answer): Answer {
  return { ...answer, ids: answer.ids.slice(0, ids.length), reason };
}

/** The run was what it was meant to be: short of everything. */
function expectTightness(run: ScheduledRun, isPrefixLm: boolean): void {
  const { plans, scheduler, kv } = run;
  const layered = plans.flatMap((plan) => (plan.layered ? [plan.layered.to - plan.layered.from] : []));
  const chunks = plans.flatMap(({ main }) =>
    main.filter(({ logits }) => logits === "none").map(({ tokenIds }) => tokenIds.length),
  );
  const cuts = isPrefixLm ? layered : chunks;
  expect(cuts.filter((size) => size === 1).length).toBeGreaterThan(10);
  expect(scheduler.stats().preemptions).toBeGreaterThan(0);
  expect(plans.flatMap(({ main }) => main.filter((step) => isReplay(run, step))).length).toBeGreaterThan(0);
  expect(kv.stats().hits).toBeGreaterThan(0);
  expect(kv.stats().evictions).toBeGreaterThan(0);
  expect(plans.flatMap(({ copies }) => copies).length).toBeGreaterThan(0);
}

/** Whether an answer that was preempted is fed what it had said before. */
function isReplay(run: ScheduledRun, { requestId, start, tokenIds }: Rectangle): boolean {
  const promptTokens = run.outcomes.get(requestId)?.request.promptIds.length ?? Infinity;
  return tokenIds.length > 1 && start + tokenIds.length > promptTokens;
}
