/** What a step's main batch does on a device: rows, references, blocks, groups. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { RunnablePlan } from "../../src/engine/runner.ts";
import { type Rectangle, sampledRow } from "../../src/engine/step-plan.ts";
import { testGpu } from "../support/gpu.ts";
import { greedyRow, mainPlan, rectangle } from "../support/rectangle.ts";
import { rejection } from "../support/rejection.ts";
import { shared } from "../support/shared.ts";
import { expectSameBits, openTestModel, relativeRms } from "../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
const { runner } = await openTestModel(shared("reference/tiny-llama"), { sequences: 4 });
const gemma = await openTestModel(shared("reference/tiny-gemma3"), { sequences: 2 });
const vocabSize = 320;
const prompt = rectangle({ tokenIds: [5, 6, 7], tables: [[2, 4]] });
const drawn = { ...greedyRow, temperature: 1 };

function argMax(row: Float32Array): number {
  return row.reduce((best, value, index) => (value > row[best] ? index : best), 0);
}

function logitsOf(...main: Rectangle[]): Promise<Float32Array> {
  return runner.run(mainPlan(...main), "logits").logits();
}

/** Logits of a token behind the prompt, whose keys and values are in this block. */
function next(block: number, id = 8): Promise<Float32Array> {
  return logitsOf({ ...prompt, tokenIds: [id], start: 3, writeStart: 3, tables: [[block]] });
}

describe("rows", () => {
  test("a row of logits for each token asked for, and ids sampled from them", async () => {
    const all = await logitsOf({ ...prompt, logits: "all" });
    expect(all.length).toBe(3 * vocabSize);
    const step = runner.run(mainPlan({ ...prompt, sampling: [greedyRow] }), "sampled", "logits");
    const last = await step.logits();
    expectSameBits(last, all.slice(2 * vocabSize));
    expect([...(await step.sampled())]).toEqual([argMax(last)]);
  });

  test("a reference to what the step before sampled is that id, whichever row it was", async () => {
    const other = rectangle({ tokenIds: [9, 3], tables: [[5]], sampling: [greedyRow] });
    const first = runner.run(mainPlan(other, { ...prompt, sampling: [{ ...drawn, seed: 3n }] }), "sampled");
    const after = { ...prompt, start: 3, writeStart: 3 };
    const referred = logitsOf({ ...after, tokenIds: [sampledRow(1)] });
    const [, id] = await first.sampled();
    expectSameBits(await logitsOf({ ...after, tokenIds: [id] }), await referred);
  });

  test("several answers: one row each from the same token, drawn as a lone answer would be", async () => {
    const seeds = [3n, 4n, 5n, 6n].map((seed) => ({ ...drawn, seed }));
    const step = runner.run(mainPlan({ ...prompt, sampling: seeds }), "sampled", "logits");
    const logits = await step.logits();
    const ids = [...(await step.sampled())];
    for (const row of [1, 2, 3]) {
      expectSameBits(logits.slice(row * vocabSize, (row + 1) * vocabSize), logits.slice(0, vocabSize));
    }
    expect(new Set(ids).size).toBeGreaterThan(1);
    for (const [row, settings] of seeds.entries()) {
      const alone = runner.run(mainPlan({ ...prompt, sampling: [settings] }), "sampled");
      expect([...(await alone.sampled())]).toEqual([ids[row]]);
    }
  });

  test("sequences of a batch do not see each other", async () => {
    const other = rectangle({ tokenIds: [9, 3, 2, 1], tables: [[5]] });
    const decoding = { ...prompt, tokenIds: [8], start: 3, writeStart: 3 };
    const alone = [await logitsOf(prompt), await logitsOf(other), await logitsOf(decoding)];
    const together = await logitsOf({ ...prompt, tables: [[6]] }, other, decoding);
    alone.forEach((logits, row) => {
      const found = together.slice(row * vocabSize, (row + 1) * vocabSize);
      expect(relativeRms(found, logits)).toBeLessThan(1e-5);
    });
  });

  test("a step without rows leaves keys and values only, and gives nothing", async () => {
    const whole = await logitsOf(prompt);
    const silent = mainPlan({ ...prompt, tokenIds: [5, 6], tables: [[3]], logits: "none" });
    const step = runner.run(silent, "sampled", "logits");
    expect([(await step.sampled()).length, (await step.logits()).length]).toEqual([0, 0]);
    const rest = await logitsOf({ ...prompt, tokenIds: [7], start: 2, writeStart: 2, tables: [[3]] });
    expect(relativeRms(rest, whole)).toBeLessThan(1e-5);
  });

  test("reading what was not asked for is an error", async () => {
    const silent = runner.run(mainPlan(prompt));
    expect((await rejection(silent.sampled())).message).toBe(
      "Cannot read sampled of a step that was not asked for it",
    );
    const onlyLogits = runner.run(mainPlan(prompt), "logits");
    expect((await rejection(onlyLogits.sampled())).message).toContain("Cannot read sampled");
    expect(gpu.failure).toBeNull();
  });
});

describe("keys and values", () => {
  test("before writeStart are not written: a token run again sees them, and leaves them", async () => {
    const last = await logitsOf(prompt);
    const expected = await next(2);
    const again = { ...prompt, tokenIds: [7], start: 2, writeStart: 3 };
    expect(relativeRms(await logitsOf(again), last)).toBeLessThan(1e-5);
    const wrong = { ...again, tokenIds: [9] };
    runner.run(mainPlan(wrong));
    expectSameBits(await next(2), expected);
    runner.run(mainPlan({ ...wrong, writeStart: 2 }));
    expect(relativeRms(await next(2), expected)).toBeGreaterThan(1e-3);
  });

  test("are copied before the step's own writes, one copy after the other", async () => {
    const fill = [2, 5, 6].map((block, index) =>
      rectangle({ tokenIds: [5, 6, 7 + index], tables: [[block]] }),
    );
    runner.run(mainPlan(...fill));
    const expected = await next(2);
    expect(await next(6)).not.toEqual(expected);
    const copies = [
      { group: 0, from: 2, to: 5 },
      { group: 0, from: 5, to: 6 },
    ];
    runner.run({ ...mainPlan({ ...fill[0], tokenIds: [1, 1, 1] }), copies });
    expectSameBits(await next(5), expected);
    expectSameBits(await next(6), expected);
    expect(await next(2)).not.toEqual(expected);
  });
});

describe("limits", () => {
  test("a plan over a limit is refused and leaves the runner as it was", async () => {
    const before = await logitsOf(prompt);
    const five = Array.from({ length: 5 }, () => prompt);
    expect(() => runner.run(mainPlan(...five), "logits")).toThrow(
      "Cannot run a step of 5 sequences: at most 4",
    );
    expectSameBits(await logitsOf(prompt), before);
  });

  test("nothing of a refused plan goes with the next one", async () => {
    runner.run(mainPlan(prompt, rectangle({ tokenIds: [1, 2, 3], tables: [[5]] })));
    const [expected, other] = [await next(2), await next(5)];
    const tooLong = rectangle({
      tokenIds: Array.from({ length: 65 }, () => 1),
      tables: [[1, 2, 3, 4, 5, 6, 7, 8, 9]],
    });
    const plan: RunnablePlan = {
      copies: [{ group: 0, from: 2, to: 5 }],
      main: [{ ...prompt, tokenIds: [1, 1, 1] }],
      layered: { rectangle: tooLong, from: 0, to: 1 },
    };
    expect(() => runner.run(plan, "logits")).toThrow("Cannot run a step of 65 tokens: at most 64");
    expectSameBits(await next(2), expected);
    expectSameBits(await next(5), other);
  });
});

describe("groups of layers", () => {
  const ids = Array.from({ length: 40 }, (_, index) => (7 * index + 3) % vocabSize);
  const run = (...main: Rectangle[]) => gemma.runner.run(mainPlan(...main), "logits").logits();
  const blocks = (first: number) => Array.from({ length: 6 }, (_, index) => first + index);

  test("have tables of their own", async () => {
    expect(gemma.policy.groups.map(({ window }) => window)).toEqual([16, null]);
    const same = await run(rectangle({ tokenIds: ids, tables: [blocks(1), blocks(1)], logits: "all" }));
    const apart = await run(
      rectangle({ tokenIds: ids, tables: [blocks(3).reverse(), blocks(9)], logits: "all" }),
    );
    expectSameBits(apart, same);
  });

  test("a block given back by a window is not read: whatever has become of it", async () => {
    const tables = [blocks(1), blocks(1)];
    gemma.runner.run(mainPlan(rectangle({ tokenIds: ids, tables, logits: "none" })));
    const decoding = rectangle({ tokenIds: [4], start: 40, tables });
    const expected = await run(decoding);
    // Positions 25 to 40 are seen: blocks of 8 from index 3.
    const given = { ...decoding, tables: [[0, 0, 0, 4, 5, 6], blocks(1)] };
    expectSameBits(await run(given), expected);
    // Another sequence writes where the given back blocks were, of that group alone.
    gemma.runner.run(
      mainPlan(
        rectangle({
          tokenIds: ids.slice(0, 24),
          tables: [
            [1, 2, 3],
            [20, 21, 22],
          ],
        }),
      ),
    );
    expectSameBits(await run(given), expected);
  });

  test("copies are of one group only", async () => {
    const tables = [[1], [1]];
    gemma.runner.run(mainPlan(rectangle({ tokenIds: [5, 6, 7], tables })));
    const after = (group0: number, group1: number) =>
      run(rectangle({ tokenIds: [8], start: 3, tables: [[group0], [group1]] }));
    const expected = await after(1, 1);
    const copies = [{ group: 0, from: 1, to: 30 }];
    gemma.runner.run({ ...mainPlan(rectangle({ tables: [[29], [29]] })), copies });
    expectSameBits(await after(30, 1), expected);
    expect(await after(30, 30)).not.toEqual(expected);
  });
});
