/** Changes to logits before an id is chosen, on a device. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { isEdit, type RowEdits } from "../../src/engine/row-edits.ts";
import {
  allowedMask,
  noPenalties,
  Penalties,
  type PenaltyParams,
} from "../../src/engine/sampling/penalties.ts";
import type { RowSampling } from "../../src/engine/step-plan.ts";
import { greedyRow, mainPlan, rectangle } from "../support/rectangle.ts";
import { shared } from "../support/shared.ts";
import { expectSameBits, openTestModel } from "../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const { runner } = await openTestModel(shared("reference/tiny-llama"), { sequences: 4 });
const vocabSize = 320;
const none: RowEdits = { entries: new Uint32Array(), mask: null };
const prompts = [
  [5, 6, 7],
  [9, 3],
  [100, 200, 300],
].map((tokenIds, index) => rectangle({ tokenIds, tables: [[index + 1]], sampling: [greedyRow] }));
const plain = runner.run(mainPlan(...prompts), "sampled", "logits");
const rawLogits = await plain.logits();
const plainIds = [...(await plain.sampled())];

function changed(params: Partial<PenaltyParams>): RowEdits {
  return { entries: new Penalties({ ...noPenalties, ...params }, []).entries([], 0), mask: null };
}

function banned(...stopIds: number[]): RowEdits {
  return changed({ stopIds, minTokens: 1 });
}

function allowed(...ids: number[]): RowEdits {
  return { ...none, mask: allowedMask(ids, vocabSize) };
}

/** Ids of a row, the largest logit first. */
function inOrder(row: number): number[] {
  const logits = rawLogits.subarray(row * vocabSize, (row + 1) * vocabSize);
  return Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
}

async function sampledWith(...main: RowEdits[]): Promise<number[]> {
  const step = runner.run({ ...mainPlan(...prompts), edits: { main, layered: [] } }, "sampled");
  return [...(await step.sampled())];
}

describe("edits", () => {
  test("the test's rows differ, and their best ids", () => {
    expect(prompts.map((_, row) => inOrder(row)[0])).toEqual(plainIds);
    expect(new Set(plainIds).size).toBe(3);
  });

  test("a banned id is not chosen in its row, and the others keep theirs", async () => {
    const ids = await sampledWith(none, banned(plainIds[1]), none);
    expect(ids).toEqual([plainIds[0], inOrder(1)[1], plainIds[2]]);
  });

  test("a banned id is never drawn, at any temperature", async () => {
    const [, best] = plainIds;
    const hot: RowSampling[] = Array.from({ length: 60 }, (_, index) => {
      return { ...greedyRow, temperature: 0.2, seed: BigInt(index) };
    });
    const answers = mainPlan({ ...prompts[1], sampling: hot });
    const drawn = async (edit: RowEdits) => {
      const main = hot.map(() => edit);
      return [...(await runner.run({ ...answers, edits: { main, layered: [] } }, "sampled").sampled())];
    };
    expect((await drawn(none)).filter((id) => id === best).length).toBeGreaterThan(10);
    expect(await drawn(banned(best))).not.toContain(best);
  });

  test("only allowed ids are chosen, of each row's own mask", async () => {
    const least = inOrder(0).at(-1) as number;
    const [, , ...rest] = inOrder(2);
    expect(await sampledWith(allowed(least), none, allowed(...rest))).toEqual([least, plainIds[1], rest[0]]);
  });

  test("a bias makes any id the best; a mask goes over it", async () => {
    const biased = changed({ logitBias: new Map([[250, 100]]) });
    expect(await sampledWith(biased, biased, none)).toEqual([250, 250, plainIds[2]]);
    const masked = { ...biased, mask: allowedMask([plainIds[0]], vocabSize) };
    expect(await sampledWith(masked, none, biased)).toEqual([plainIds[0], plainIds[1], 250]);
  });

  test("logits are read as the model gave them, although ids are chosen from changed ones", async () => {
    const edits = { main: [banned(plainIds[0]), allowed(7), none], layered: [] };
    const step = runner.run({ ...mainPlan(...prompts), edits }, "sampled", "logits");
    expectSameBits(await step.logits(), rawLogits);
    expect([...(await step.sampled())]).toEqual([inOrder(0)[1], 7, plainIds[2]]);
  });

  test("leave nothing behind for the next step", async () => {
    await sampledWith(banned(...plainIds), banned(...plainIds), allowed(3));
    expect(await sampledWith(none, none, none)).toEqual(plainIds);
    expect(await sampledWith()).toEqual(plainIds);
  });

  test("more of them than in the step before", async () => {
    const most = inOrder(0).slice(0, 200);
    expect(await sampledWith(banned(most[0]), none, none)).toEqual([most[1], plainIds[1], plainIds[2]]);
    expect((await sampledWith(banned(...most), none, none))[0]).toBe(inOrder(0)[200]);
  });

  test("an edit without entries or mask is none", () => {
    expect([none, banned(1), allowed(1)].map(isEdit)).toEqual([false, true, true]);
  });
});
