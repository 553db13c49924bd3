/** The mean of a prompt's final states: of each of its tokens once, however the prompt is cut, shared and interrupted. */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadEngine, type LoadedEngine } from "../../src/engine/load-engine.ts";
import { readVerifyCases, type VerifyCase } from "../../src/engine/verify/cases.ts";
import { readWholeFile } from "../support/checkpoint.ts";
import { CoreHarness, coreRequest, promptOf } from "../support/core-harness.ts";
import { settled } from "../support/fake-runner.ts";
import { ScheduledRun, type ScheduleOptions } from "../support/scheduled-run.ts";
import { engineOptions, greedy } from "../support/served.ts";
import { shared } from "../support/shared.ts";
import { expectSameBits, relativeRms } from "../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const blockSize = 2;
const reading = { ...greedy, maxTokens: 1 };

for (const name of ["tiny-hrm-text", "tiny-llama"]) describe(name, () => reference(name));

function reference(name: string): void {
  const dir = shared(`reference/${name}`);
  const isPrefixLm = name === "tiny-hrm-text";
  let engine: LoadedEngine;
  let longest: VerifyCase;
  let alone: Float32Array;

  beforeAll(async () => {
    const wide = { blockSize, maxBatchedTokens: 64, maxSequences: 4, numBlocks: 96 };
    engine = await loadEngine(
      engineOptions(dir, { ...wide, deterministic: true, rotaryFrequencies: "bf16" }),
    );
    const cases = (await readVerifyCases(dir, false)).filter(
      ({ prefixLength, promptIds }) => prefixLength === (isPrefixLm ? promptIds.length : 0),
    );
    longest = cases.reduce((a, b) => (a.promptIds.length > b.promptIds.length ? a : b));
    const run = new ScheduledRun(engine, { prefixCaching: false });
    alone = await meanOf(run, "alone");
    await run.drain();
  });
  afterAll(() => engine.gpu.close());

  async function meanOf(run: ScheduledRun, id: string): Promise<Float32Array> {
    const { promptIds } = longest;
    const outcome = run.submit({ id, promptIds, sampling: reading, wantsMeanState: true });
    await outcome.done;
    return outcome.prompt?.meanState ?? new Float32Array();
  }

  test("the head makes the mean of the reference's logits of it", () => {
    // The head is linear, so it may be applied before or after the mean.
    const logits = longest.promptLogits as Float32Array;
    const tokens = longest.promptIds.length;
    const vocab = logits.length / tokens;
    const expected = Float32Array.from({ length: vocab }, (_, id) => {
      let sum = 0;
      for (let token = 0; token < tokens; token++) sum += logits[token * vocab + id];
      return sum / tokens;
    });
    expect(tokens).toBeGreaterThan(16);
    expect(relativeRms(multiply(headOf(dir), alone), expected)).toBeLessThan(1e-3);
  });

  // A Prefix LM's prompt of this budget is cut along its layers.
  const cuts: [string, ScheduleOptions][] = [
    ["in small steps", { maxBatchedTokens: 3 }],
    ["in steps that a token is left of", { maxBatchedTokens: 10 }],
  ];
  test.each(cuts)("%s, and cached before, it is the same", async (_name, cut) => {
    const run = new ScheduledRun(engine, cut);
    for (const id of ["first", "second"]) expectAlmostSame(await meanOf(run, id), alone, isPrefixLm);
    const plain = run.submit({ id: "plain", promptIds: longest.promptIds, sampling: reading });
    await run.drain();
    expect(run.plans.length).toBeGreaterThan(4);
    expect(run.plans.some(({ layered }) => layered !== null)).toBe(isPrefixLm);
    expect(plain.prompt?.cachedTokens).toBeGreaterThan(blockSize);
    expect(plain.prompt?.meanState).toBeUndefined();
  });

  test("beside others, and losing its blocks on the way, it is the same", async () => {
    const count = longest.promptIds.length;
    const limits = isPrefixLm ? { maxBatchedTokens: 2 } : { maxBatchedTokens: 3 };
    const run = new ScheduledRun(engine, { ...limits, numBlocks: Math.ceil(count / blockSize) + 4 });
    const sampling = { ...greedy, maxTokens: count, ignoreEos: true };
    run.submit({ id: "growing", promptIds: longest.promptIds.slice(0, 4), sampling });
    const [mean, other] = await Promise.all([meanOf(run, "mean"), meanOf(run, "other")]);
    await run.drain();
    expect(run.scheduler.stats().preemptions).toBeGreaterThan(0);
    expectAlmostSame(mean, alone, isPrefixLm);
    expectAlmostSame(other, alone, isPrefixLm);
  });
}

/** A prompt that is cut along layers is summed up in one go; one that is cut along tokens in parts, which round otherwise. */
function expectAlmostSame(actual: Float32Array, expected: Float32Array, isExact: boolean): void {
  if (isExact) expectSameBits(actual, expected);
  else expect(relativeRms(actual, expected)).toBeLessThan(1e-6);
}

/** The head's weights, bf16 on disk, row by row. */
function headOf(dir: string): Float32Array[] {
  const tensors = readWholeFile(join(dir, "model.safetensors"));
  const find = (name: string) => tensors.find((tensor) => tensor.name === name);
  const head = find("lm_head.weight") ?? find("model.embed_tokens.weight");
  if (!head) throw new Error(`expected a head in ${dir}`);
  const [rows, columns] = head.shape;
  const halves = new Uint16Array(head.bytes.slice().buffer);
  const values = new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
  return Array.from({ length: rows }, (_, row) => values.subarray(row * columns, (row + 1) * columns));
}

function multiply(matrix: readonly Float32Array[], vector: Float32Array): Float32Array {
  return Float32Array.from(matrix, (row) => row.reduce((sum, weight, at) => sum + weight * vector[at], 0));
}

describe("the step loop", () => {
  const stateOf = (_id: string, position: number) => [position, 1];

  test.each([
    ["along tokens", { isPrefixLm: false, maxBatchedTokens: 4 }],
    ["along layers", { isPrefixLm: true, maxBatchedTokens: 4 }],
  ])("takes the mean over all positions of a prompt that is cut %s", async (_name, options) => {
    const engine = new CoreHarness({ ...options, script: () => 20, stateOf });
    engine.submit(coreRequest("other", { promptIds: promptOf(3) }));
    engine.submit(coreRequest("a", { promptIds: promptOf(9), maxTokens: 1, wantsMeanState: true }));
    await settled();
    expect(engine.runner.steps.length).toBeGreaterThan(3);
    const [first] = engine.events.get("a") ?? [];
    expect(first).toEqual({ type: "prompt", cachedTokens: 0, meanState: Float32Array.of(4, 1) });
    expect(engine.events.get("other")?.[0]).toEqual({ type: "prompt", cachedTokens: 0 });
  });
});
