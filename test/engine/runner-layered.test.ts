/** A prefix that is run some layer passes at a time, beside what else goes on. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { RowEdits } from "../../src/engine/row-edits.ts";
import { allowedMask } from "../../src/engine/sampling/penalties.ts";
import { sampledRow } from "../../src/engine/step-plan.ts";
import { greedyRow, layeredPlan, mainPlan, rectangle } from "../support/rectangle.ts";
import { rejection } from "../support/rejection.ts";
import { shared } from "../support/shared.ts";
import { expectSameBits, openTestModel } from "../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const { runner, policy } = await openTestModel(shared("reference/tiny-hrm-text"), { sequences: 4 });
const { passCount } = runner;
const vocabSize = 320;
const ids = [301, 282, 183, 196, 29, 114, 276, 50, 154, 273, 155, 289, 124];
const blocks = [7, 3];
const prefix = rectangle({
  tokenIds: ids,
  prefixLength: ids.length,
  tables: [blocks],
  sampling: [greedyRow],
});
/** Other sequences, in other blocks. */
const other = rectangle({ tokenIds: [9, 8, 7], prefixLength: 3, tables: [[11]], sampling: [greedyRow] });
const decoding = { ...other, tokenIds: [6], start: 3, writeStart: 3 };

/** Logits of what follows the prefix, which depend on all its keys and values. */
function following(): Promise<Float32Array> {
  const token = { ...prefix, tokenIds: [17], start: ids.length, writeStart: ids.length, sampling: [] };
  return runner.run(mainPlan(token), "logits").logits();
}

/** Overwrites the prefix's blocks, so that what a later run leaves there is its own. */
function overwrite(): void {
  runner.run(mainPlan({ ...prefix, tokenIds: ids.map(() => 5), logits: "none", sampling: [] }));
}

const whole = runner.run(mainPlan(prefix), "sampled", "logits");
const expected = {
  logits: await whole.logits(),
  sampled: [...(await whole.sampled())],
  following: await following(),
};

const each = Array.from({ length: passCount + 1 }, (_, pass) => pass);

describe("a layered prefix", () => {
  test.each([
    ["all passes at once", [0, passCount]],
    ["two pieces", [0, 5, passCount]],
    ["a last piece of one pass", [0, passCount - 1, passCount]],
    ["pass by pass", each],
  ])("has the bits of one main batch: %s", async (_name, cuts) => {
    expect(policy.prefillCut).toBe("layers");
    expect(passCount).toBeGreaterThan(8);
    overwrite();
    runner.run(mainPlan(other));
    for (let piece = 0; piece + 2 < cuts.length; piece++) {
      const layered = {
        rectangle: { ...prefix, logits: "none" as const, sampling: [] },
        from: cuts[piece],
        to: cuts[piece + 1],
      };
      // Others decode between its pieces and beside them.
      runner.run(layeredPlan(layered, decoding));
      runner.run(mainPlan(decoding, other));
    }
    const last = { rectangle: prefix, from: cuts.at(-2) as number, to: passCount };
    const step = runner.run(layeredPlan(last), "sampled", "logits");
    expectSameBits(await step.logits(), expected.logits);
    expect([...(await step.sampled())]).toEqual(expected.sampled);
    expectSameBits(await following(), expected.following);
  });

  test("is not whole before its last pass", async () => {
    overwrite();
    runner.run(
      layeredPlan({ rectangle: { ...prefix, logits: "none", sampling: [] }, from: 0, to: passCount - 1 }),
    );
    expect(await following()).not.toEqual(expected.following);
    runner.run(layeredPlan({ rectangle: prefix, from: passCount - 1, to: passCount }));
    expectSameBits(await following(), expected.following);
  });

  test("gives no rows before its last pass, and may be waited for all the same", async () => {
    const unfinished = layeredPlan({ rectangle: prefix, from: 0, to: passCount - 1 });
    const step = runner.run(unfinished, "sampled", "logits");
    expect([(await step.sampled()).length, (await step.logits()).length]).toEqual([0, 0]);
    expect((await rejection(runner.run(unfinished).sampled())).message).toContain("Cannot read sampled");
  });
});

describe("a main batch beside a layered one", () => {
  const finishing = { rectangle: prefix, from: 0, to: passCount };

  test("has its rows first", async () => {
    const alone = runner.run(mainPlan(other), "sampled", "logits");
    const step = runner.run(layeredPlan(finishing, other), "sampled", "logits");
    const logits = await step.logits();
    expectSameBits(logits.slice(0, vocabSize), await alone.logits());
    expectSameBits(logits.slice(vocabSize), expected.logits);
    expect([...(await step.sampled())]).toEqual([...(await alone.sampled()), ...expected.sampled]);
  });

  test("is what references to sampled rows mean", async () => {
    const first = runner.run(layeredPlan(finishing, other), "sampled");
    const [id] = await first.sampled();
    const layeredBetween = { rectangle: { ...prefix, tables: [[20, 21]] }, from: 0, to: passCount };
    runner.run(layeredPlan(layeredBetween));
    const referred = await runner
      .run(mainPlan({ ...decoding, tokenIds: [sampledRow(0)] }), "logits")
      .logits();
    expectSameBits(await runner.run(mainPlan({ ...decoding, tokenIds: [id] }), "logits").logits(), referred);
  });

  test.each([
    ["with rows", [other]],
    ["without rows", [{ ...other, logits: "none" as const, sampling: [] }]],
    ["that is empty", []],
  ])("%s has its own edits, and the layered one its own", async (_name, main) => {
    const only = (id: number): RowEdits => ({
      entries: new Uint32Array(),
      mask: allowedMask([id], vocabSize),
    });
    const edits = {
      main: main.filter(({ logits }) => logits === "last").map(() => only(40)),
      layered: [only(50)],
    };
    const step = runner.run({ ...layeredPlan(finishing, ...main), edits }, "sampled");
    expect([...(await step.sampled())]).toEqual([...edits.main.map(() => 40), 50]);
  });
});

describe("several answers of a layered prefix", () => {
  test("are rows of its last token", async () => {
    const seeds = [1n, 2n, 3n].map((seed) => ({ ...greedyRow, temperature: 1, seed }));
    const answers = { ...prefix, sampling: seeds };
    const main = await runner.run(mainPlan(answers), "sampled").sampled();
    const layered = await runner
      .run(layeredPlan({ rectangle: answers, from: 0, to: passCount }), "sampled")
      .sampled();
    expect([...layered]).toEqual([...main]);
    expect(new Set(main).size).toBeGreaterThan(1);
  });
});
