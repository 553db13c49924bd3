/**
 * What changes logits before an id is chosen, on the real engine: all kinds in one batch, beside requests that want
 * nothing of it and are neither changed nor slowed. Prefills are cut along layers, so edits reach those rows too.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { SamplingParams } from "../../src/engine/client.ts";
import { loadEngine, type LoadedEngine } from "../../src/engine/load-engine.ts";
import { prefixLm, promptOf, translationOf } from "../support/golden.ts";
import { type Answer, runAlone, ScheduledRun, stepsOf } from "../support/scheduled-run.ts";
import { engineOptions, greedy } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const { prompt_ids: promptIds, output_ids: golden, output_logprobs: goldenLogprobs } = translationOf(12);
const [eos] = golden.slice(-1);
const maxTokens = golden.length + 4;
const pair = golden.slice(1, 3);

/** Of a prompt that is answered in 6 tokens, the end included, unless something is changed. */
const edited: Record<string, Partial<SamplingParams>> = {
  "no end by bias": { penalties: { logitBias: new Map([[eos, -100]]) }, logprobs: 2 },
  "no end by a bad word": { penalties: { badWords: [[eos]] } },
  "no pair": { penalties: { badWords: [pair] } },
  "not before": { minTokens: golden.length + 1 },
  "one id": { allowedTokenIds: [500] },
  "two ids": { allowedTokenIds: [8191, 31], temperature: 1, seed: 3n },
  "biased to one id": { penalties: { logitBias: new Map([[77, 1000]]) }, ignoreEos: true },
  presence: { penalties: { presence: 1000 }, ignoreEos: true },
  frequency: { penalties: { frequency: 1000 }, ignoreEos: true },
  repetition: { penalties: { repetition: 1000 }, ignoreEos: true },
  "stop id": { stopTokenIds: [golden[3]] },
  logprobs: { logprobs: 1 },
};
const plain = [7, 9];

describe("one batch of all kinds", () => {
  let engine: LoadedEngine;
  let run: ScheduledRun;
  const requestOf = (id: string) => ({
    id,
    promptIds,
    sampling: { ...greedy, maxTokens, ...edited[id] },
  });
  const plainOf = (length: number) => ({
    id: `plain ${length}`,
    promptIds: promptOf(length),
    sampling: { ...greedy, ignoreEos: true, maxTokens: 40 },
  });
  const answer = (id: string) => run.outcomes.get(id)?.answers[0] as Answer;

  beforeAll(async () => {
    const limits = { maxBatchedTokens: 16, maxSequences: 16 };
    engine = await loadEngine(engineOptions(prefixLm.dir, { ...limits, deterministic: true }));
    run = new ScheduledRun(engine, { hashesRows: true, prefixCaching: false });
    for (const length of plain) run.submit(plainOf(length));
    for (const id of Object.keys(edited)) run.submit(requestOf(id));
    await run.drain();
  });
  afterAll(() => engine.gpu.close());

  test("cuts prefills along layers", () => {
    const cut = run.plans.flatMap(({ layered }) => (layered ? [layered.rectangle.requestId] : []));
    expect(new Set(cut).size).toBeGreaterThan(3);
  });

  test.each(plain)("leaves the plain request of %i tokens as it is alone", async (length) => {
    const request = plainOf(length);
    const alone = await runAlone(engine, request);
    const { ids, rows } = answer(request.id);
    expect([ids, rows]).toEqual([alone.answers[0].ids, alone.answers[0].rows]);
  });

  test.each(plain)("does not slow the plain request of %i tokens", (length) => {
    const steps = stepsOf(run, plainOf(length).id);
    expect(steps).toEqual(steps.map((_, index) => steps[0] + index));
  });

  test.each(["no pair", "presence", "frequency", "repetition"])("waits for each id of: %s", (id) => {
    const steps = stepsOf(run, id);
    expect(steps.slice(1).every((step, index) => step > steps[index] + 1)).toBe(true);
  });

  test.each(Object.keys(edited))("gives what it gives alone: %s", async (id) => {
    const alone = await runAlone(engine, requestOf(id));
    expect([answer(id).ids, answer(id).reason]).toEqual([alone.answers[0].ids, alone.answers[0].reason]);
  });
  test("an id that is biased away, forbidden or held back does not end the answer", () => {
    const start = golden.slice(0, -1);
    for (const id of ["no end by bias", "no end by a bad word"]) {
      const { ids, reason } = answer(id);
      expect([ids.slice(0, start.length), ids.length, reason]).toEqual([start, maxTokens, "length"]);
      expect(ids).not.toContain(eos);
    }
    const { ids, reason } = answer("not before");
    expect([ids.slice(0, start.length), reason]).toEqual([start, "stop"]);
    expect(ids.indexOf(eos)).toBe(ids.length - 1);
    expect(ids.length).toBeGreaterThan(golden.length + 1);
  });

  test("a word of two ids is left where it would be completed", () => {
    const { ids } = answer("no pair");
    expect(ids.slice(0, 2)).toEqual(golden.slice(0, 2));
    expect(ids[2]).not.toBe(golden[2]);
  });

  test("only allowed ids come", () => {
    expect(answer("one id").ids).toEqual(Array.from({ length: maxTokens }, () => 500));
    expect(new Set(answer("two ids").ids)).toEqual(new Set([8191, 31]));
    expect(answer("biased to one id").ids).toEqual(Array.from({ length: maxTokens }, () => 77));
  });

  test("nothing is said twice at too high a price, nor what the prompt has", () => {
    for (const id of ["presence", "frequency", "repetition"]) {
      expect(new Set(answer(id).ids).size).toBe(maxTokens);
    }
    expect(answer("repetition").ids.filter((id) => promptIds.includes(id))).toEqual([]);
  });

  test("a stop id ends the answer, and is its last", () => {
    const { ids, reason } = answer("stop id");
    expect([ids, reason]).toEqual([golden.slice(0, 4), "stop"]);
  });

  test("log-probabilities are those of the reference, whatever is done to the logits afterwards", () => {
    const biased = answer("no end by bias").logprobs.slice(0, golden.length);
    for (const logprobs of [answer("logprobs").logprobs, biased]) {
      expect(logprobs.map(({ top: [{ id }] }) => id)).toEqual(golden);
      logprobs.forEach(({ top: [{ logprob }] }, index) => {
        expect(Math.abs(logprob - goldenLogprobs[index])).toBeLessThan(1e-4);
      });
    }
    const last = biased.at(-1)?.chosen;
    expect([last?.id, last?.rank]).toEqual([answer("no end by bias").ids[golden.length - 1], 2]);
  });
});
