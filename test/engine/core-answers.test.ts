/** What a request asks for beyond the next id: several answers, ends, changes to logits, log-probabilities. */
import { describe, expect, test } from "bun:test";
import type { RowEdits } from "../../src/engine/row-edits.ts";
import { allowedMask } from "../../src/engine/sampling/penalties.ts";
import { ADJUSTMENT_WORDS } from "../../src/gpu/kernels/adjust-logits.ts";
import { CoreHarness, coreRequest, eos, promptOf, vocabSize } from "../support/core-harness.ts";
import { type FakeRow, settled } from "../support/fake-runner.ts";

/** Ids that an edit names. */
function namedIds({ entries }: RowEdits): number[] {
  return Array.from({ length: entries.length / ADJUSTMENT_WORDS }, (_, at) => entries[at * ADJUSTMENT_WORDS]);
}

/** What was asked to be changed about each row of an answer, in order. */
function editsOf({ runner }: CoreHarness, requestId: string, choice = 0): RowEdits[] {
  return runner.steps.flatMap(({ plan, rows }) => {
    const edits = [...(plan.edits?.main ?? []), ...(plan.edits?.layered ?? [])];
    expect(edits.length).toBe(rows.length);
    return edits.filter((_, row) => rows[row].requestId === requestId && rows[row].choice === choice);
  });
}

describe("several answers", () => {
  const idOf = ({ choice, step }: FakeRow) => 20 + 10 * choice + step;

  test("share one prefill and get their own ids", async () => {
    const engine = new CoreHarness({ script: idOf });
    engine.submit(coreRequest("a", { n: 4, maxTokens: 5 }));
    await settled();
    const { rectangles } = engine.runner;
    expect(rectangles.filter(({ start }) => start === 0).length).toBe(1);
    expect(rectangles.length).toBe(1 + 4 * 4);
    for (const choice of [0, 1, 2, 3]) {
      expect(engine.ids("a", choice)).toEqual([0, 1, 2, 3, 4].map((step) => 20 + 10 * choice + step));
      expect(engine.eventsOf("a", choice).at(-1)).toEqual({ type: "finish", choice, reason: "length" });
    }
    expect(engine.blocksUsed()).toBe(0);
  });

  test("draw from seeds that follow the request's, around the end of 64 bits", async () => {
    const engine = new CoreHarness({ script: idOf });
    engine.submit(coreRequest("a", { n: 3, seed: 2n ** 64n - 2n }));
    await settled();
    const seeds = engine.runner.rectangles[0].sampling.map(({ seed }) => seed);
    expect(seeds).toEqual([2n ** 64n - 2n, 2n ** 64n - 1n, 0n]);
    const later = engine.runner.rectangles.slice(1);
    for (const { choice, sampling } of later) expect(sampling[0].seed).toBe(seeds[choice]);
  });

  test("end each on its own", async () => {
    const engine = new CoreHarness({ script: ({ choice, step }) => (choice === 1 && step === 1 ? eos : 20) });
    engine.submit(coreRequest("a", { n: 3, maxTokens: 4 }));
    await settled();
    expect([0, 1, 2].map((choice) => engine.finish("a", choice))).toEqual(["length", "stop", "length"]);
    expect([0, 1, 2].map((choice) => engine.ids("a", choice).length)).toEqual([4, 2, 4]);
  });

  test("of a prefix that is run layer by layer come from its last part", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 8, script: idOf });
    engine.submit(coreRequest("a", { promptIds: promptOf(16), n: 2, maxTokens: 2 }));
    await settled();
    expect([engine.ids("a", 0), engine.ids("a", 1)]).toEqual([
      [20, 21],
      [30, 31],
    ]);
  });
});

describe("the end", () => {
  test("by length: no step follows the last token", async () => {
    const engine = new CoreHarness({ script: () => 1 });
    engine.submit(coreRequest("a", { maxTokens: 2 }));
    await settled();
    expect(engine.runner.steps.length).toBe(2);
    expect(engine.eventsOf("a").at(-1)).toEqual({ type: "finish", choice: 0, reason: "length" });
  });

  test("by the model's end token: it is reported, wins over the limit, and the id sampled after it is dropped", async () => {
    const engine = new CoreHarness({ script: ({ step }) => (step === 1 ? eos : 1) });
    engine.submit(coreRequest("a", { maxTokens: 2 }));
    engine.submit(coreRequest("b", { maxTokens: 9, promptIds: promptOf(6) }));
    await settled();
    for (const id of ["a", "b"]) {
      expect(engine.ids(id)).toEqual([1, eos]);
      expect(engine.finish(id)).toBe("stop");
    }
    expect(engine.runner.rectanglesOf("b").length).toBe(3); // one ahead
  });

  test("by one of the request's own ids", async () => {
    const engine = new CoreHarness({ script: ({ step }) => 20 + step });
    engine.submit(coreRequest("a", { maxTokens: 9, stopTokenIds: [30, 22] }));
    await settled();
    expect([engine.ids("a"), engine.finish("a")]).toEqual([[20, 21, 22], "stop"]);
  });

  test("is not the model's end token when that is to be ignored, but still the request's own", async () => {
    const engine = new CoreHarness({ script: ({ step }) => (step === 3 ? 30 : eos) });
    engine.submit(coreRequest("a", { maxTokens: 9, ignoreEos: true, stopTokenIds: [30] }));
    engine.submit(coreRequest("b", { maxTokens: 2, ignoreEos: true, promptIds: promptOf(6) }));
    await settled();
    expect([engine.ids("a"), engine.finish("a")]).toEqual([[eos, eos, eos, 30], "stop"]);
    expect([engine.ids("b"), engine.finish("b")]).toEqual([[eos, eos], "length"]);
    expect(editsOf(engine, "a").every(({ entries }) => entries.length === 0)).toBe(true);
  });

  test("is at the context's limit whatever was asked for", async () => {
    const engine = new CoreHarness({ maxModelLen: 12, script: () => 1 });
    engine.submit(coreRequest("a", { promptIds: promptOf(10), maxTokens: 99 }));
    await settled();
    expect([engine.ids("a"), engine.finish("a")]).toEqual([[1, 1], "length"]);
  });
});

describe("changes to logits", () => {
  test("minTokens bans the ends from the rows before, and from no other request's", async () => {
    const engine = new CoreHarness({ script: ({ step }) => (step < 3 ? 20 : eos) });
    engine.submit(coreRequest("plain", { maxTokens: 4 }));
    engine.submit(
      coreRequest("a", { maxTokens: 9, minTokens: 3, stopTokenIds: [30], promptIds: promptOf(6) }),
    );
    await settled();
    const banned = editsOf(engine, "a").map(namedIds);
    expect(banned.slice(0, 4)).toEqual([[eos, 30], [eos, 30], [eos, 30], []]);
    expect(editsOf(engine, "plain").flatMap(namedIds)).toEqual([]);
    expect([engine.ids("a"), engine.finish("a")]).toEqual([[20, 20, 20, eos], "stop"]);
  });

  test("a bias and a minimum do not hold a request back", async () => {
    const engine = new CoreHarness();
    engine.submit(coreRequest("a", { minTokens: 2, penalties: { logitBias: new Map([[5, 1]]) } }));
    await settled();
    expect(engine.runner.steps.length).toBe(2);
    expect(editsOf(engine, "a").map(namedIds)).toEqual([
      [eos, 5],
      [eos, 5],
    ]);
  });

  test("penalties count the answer's own ids", async () => {
    const engine = new CoreHarness({ script: ({ choice, step }) => 20 + 10 * choice + step });
    engine.submit(coreRequest("a", { n: 2, maxTokens: 3, penalties: { presence: 1 } }));
    await settled();
    expect(editsOf(engine, "a", 0).map(namedIds)).toEqual([[], [20], [20, 21]]);
    expect(editsOf(engine, "a", 1).map(namedIds)).toEqual([[], [30], [30, 31]]);
  });

  test("allowed ids are a mask on every row of the request and on no other", async () => {
    const engine = new CoreHarness({ script: () => 3 });
    engine.submit(coreRequest("free"));
    engine.submit(coreRequest("a", { promptIds: promptOf(6), allowedTokenIds: [3, 40] }));
    await settled();
    const mask = allowedMask([3, 40], vocabSize);
    expect(editsOf(engine, "a").map((edits) => edits.mask)).toEqual([mask, mask, mask]);
    expect(editsOf(engine, "free").map((edits) => edits.mask)).toEqual([null, null, null]);
  });

  test("reach the rows of a prefix that is run layer by layer, beside a main batch", async () => {
    const engine = new CoreHarness({ maxBatchedTokens: 8, script: () => 20 });
    engine.submit(coreRequest("a", { maxTokens: 8 }));
    engine.submit(coreRequest("b", { promptIds: promptOf(16), minTokens: 1, maxTokens: 1 }));
    await settled();
    const last = engine.runner.steps.find(({ plan }) => plan.layered?.to === 4);
    expect(last?.plan.main.length).toBe(1);
    expect(last?.plan.edits?.main.flatMap(namedIds)).toEqual([]);
    expect(last?.plan.edits?.layered.map(namedIds)).toEqual([[eos]]);
  });
});

describe("log-probabilities", () => {
  /** All mass on one id, another for each answer and step. */
  const peak = ({ requestId, choice, step }: FakeRow) => (requestId === "a" ? 20 + 10 * choice + step : 60);
  const logitsOf = (row: FakeRow) =>
    Array.from({ length: vocabSize }, (_, id) => (id === peak(row) ? 50 : 0));

  test("go with the answer and the id they belong to", async () => {
    const engine = new CoreHarness({ script: peak, logitsOf });
    engine.submit(coreRequest("other", { promptIds: promptOf(6) }));
    engine.submit(coreRequest("a", { n: 2, logprobs: 1 }));
    await settled();
    for (const choice of [0, 1]) {
      const tokens = engine.eventsOf("a", choice).filter((event) => event.type === "tokens");
      expect(tokens.length).toBe(3);
      for (const { ids, logprobs } of tokens) {
        expect(logprobs?.map(({ chosen }) => chosen.id)).toEqual(ids);
        expect(logprobs?.[0].chosen).toMatchObject({ rank: 1, logprob: 0 });
        expect(logprobs?.[0].top.map(({ id }) => id)).toEqual(ids);
      }
    }
    const others = engine.eventsOf("other").filter((event) => event.type === "tokens");
    expect(others.every((event) => !("logprobs" in event))).toBe(true);
  });

  test("of what was drawn, be it unlikely: as many as were asked for, 0 of them too", async () => {
    const engine = new CoreHarness({ script: () => 7, logitsOf });
    engine.submit(coreRequest("a", { maxTokens: 1, logprobs: 0 }));
    engine.submit(coreRequest("b", { maxTokens: 1, logprobs: 2, promptIds: promptOf(6) }));
    await settled();
    const found = ["a", "b"].map((id) => engine.eventsOf(id)[0]);
    expect(found).toMatchObject([
      { ids: [7], logprobs: [{ chosen: { id: 7, rank: 64 }, top: [] }] },
      {
        ids: [7],
        logprobs: [
          {
            chosen: { id: 7, rank: 64 },
            top: [
              { id: 60, rank: 1 },
              { id: 0, rank: 2 },
            ],
          },
        ],
      },
    ]);
  });

  test("are read back only for steps that sample a row for them", async () => {
    const engine = new CoreHarness({ script: peak, logitsOf });
    engine.submit(coreRequest("a", { maxTokens: 2, logprobs: 1 }));
    engine.submit(coreRequest("b", { maxTokens: 4, promptIds: promptOf(6) }));
    await settled();
    expect(engine.runner.steps.map(({ wanted }) => wanted.includes("logits"))).toEqual(
      engine.runner.steps.map(({ rows }) => rows.some(({ requestId }) => requestId === "a")),
    );
    expect(engine.runner.steps.at(-1)?.wanted).toEqual(["sampled"]);
  });
});
