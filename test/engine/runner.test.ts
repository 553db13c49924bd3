import { describe, expect, test } from "bun:test";
import { type SequenceStep, sampledRow } from "../../src/engine/step-plan.ts";
import { testGpu } from "../support/gpu.ts";
import { rejection } from "../support/rejection.ts";
import { shared } from "../support/shared.ts";
import { openTestModel } from "../support/test-model.ts";

const gpu = await testGpu();
const { runner } = await openTestModel(shared("reference/tiny-llama"));
const vocabSize = 320;
const prompt: SequenceStep = {
  tokenIds: [5, 6, 7],
  start: 0,
  prefixLength: 0,
  blocks: [2, 4],
  logits: "last",
};
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 1n, step: 0 };

function argMax(row: Float32Array): number {
  return row.reduce((best, value, index) => (value > row[best] ? index : best), 0);
}

describe("Runner", () => {
  test("gives a row of logits for each token asked for, and samples from it", async () => {
    const all = await runner.run([{ ...prompt, logits: "all" }], "logits").logits();
    expect(all.length).toBe(3 * vocabSize);
    const step = runner.run([{ ...prompt, sampling: greedy }], "sampled", "logits");
    const last = await step.logits();
    expect(last).toEqual(all.slice(2 * vocabSize));
    expect([...(await step.sampled())]).toEqual([argMax(last)]);
  });

  test("a reference to what the step before sampled is that id", async () => {
    const sampling = { ...greedy, temperature: 1, seed: 3n };
    const first = runner.run([{ ...prompt, sampling }], "sampled");
    const second = runner.run([{ ...prompt, tokenIds: [sampledRow(0)], start: 3 }], "logits");
    const [id] = await first.sampled();
    const referred = await second.logits();
    const direct = await runner.run([{ ...prompt, tokenIds: [id], start: 3 }], "logits").logits();
    expect(direct).toEqual(referred);
  });

  test("a step without logits leaves keys and values only", async () => {
    const whole = await runner.run([prompt], "logits").logits();
    runner.run([{ ...prompt, tokenIds: [5, 6], blocks: [3], logits: "none" }]);
    const rest = runner.run([{ ...prompt, tokenIds: [7], start: 2, blocks: [3] }], "logits");
    const logits = await rest.logits();
    expect(Math.max(...logits.map((value, i) => Math.abs(value - whole[i])))).toBeLessThan(1e-4);
  });

  test("reading what was not asked for is an error", async () => {
    const silent = runner.run([prompt]);
    expect((await rejection(silent.sampled())).message).toBe(
      "Cannot read sampled of a step that was not asked for it",
    );
    const onlyLogits = runner.run([prompt], "logits");
    expect((await rejection(onlyLogits.sampled())).message).toContain("Cannot read sampled");
    const noRows = runner.run([{ ...prompt, logits: "none" }], "logits");
    expect((await rejection(noRows.logits())).message).toContain("Cannot read logits");
    expect(gpu.failure).toBeNull();
  });

  test("a plan over a limit is refused and leaves the runner as it was", async () => {
    const before = await runner.run([prompt], "logits").logits();
    expect(() => runner.run([prompt, prompt], "logits")).toThrow(
      "Cannot run a step of 2 sequences: at most 1",
    );
    expect(await runner.run([prompt], "logits").logits()).toEqual(before);
  });
});
