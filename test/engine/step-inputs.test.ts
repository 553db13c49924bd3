import { describe, expect, test } from "bun:test";
import { causalMetadata } from "../../src/engine/layers/attention.ts";
import { neverCausal } from "../../src/engine/layers/prefill-prefix-lm-attention.ts";
import { StepInputs, type StepLimits } from "../../src/engine/step-inputs.ts";
import { type RowSampling, sampledRow, type SequenceStep } from "../../src/engine/step-plan.ts";
import { ID_FROM_SAMPLED } from "../../src/gpu/kernels/embedding.ts";
import { testGpu } from "../support/gpu.ts";
import { readU32 } from "../support/read-tensor.ts";

const gpu = await testGpu();
const limits: StepLimits = { tokens: 12, sequences: 3, rows: 5, blocksPerSequence: 4, blockSize: 4 };
const builders = { causal: causalMetadata, prefix: neverCausal(causalMetadata) };

function newInputs(): StepInputs {
  return new StepInputs(gpu.device, limits, builders);
}

const sampling: RowSampling = {
  temperature: 0.75,
  topK: 40,
  topP: 0.5,
  minP: 0.25,
  seed: 0x1234_5678_9abc_def0n,
  step: 17,
};

/** Five tokens across a block's end, blocks shuffled; a decoding sequence; a prompt of which all logits are wanted. */
const middle: SequenceStep = {
  tokenIds: [10, 11, 12, 13, 14],
  start: 6,
  prefixLength: 0,
  blocks: [7, 2, 9],
  logits: "none",
};
const decoding: SequenceStep = {
  tokenIds: [sampledRow(1)],
  start: 9,
  prefixLength: 5,
  blocks: [3, 8, 1, 5],
  logits: "last",
  sampling,
};
const scored: SequenceStep = {
  tokenIds: [20, 21, 22],
  start: 0,
  prefixLength: 3,
  blocks: [6],
  logits: "all",
};
const plan = [middle, decoding, scored];

describe("what a step's tensors hold", () => {
  const step = newInputs().write(plan);

  test("ids, with references to sampled rows marked", async () => {
    const ids = await readU32(gpu, step.tokenIds);
    expect(ids).toEqual([10, 11, 12, 13, 14, ID_FROM_SAMPLED + 1, 20, 21, 22]);
  });

  test("position, slot by the block table, and sequence of each token", async () => {
    const words = await readU32(gpu, step.tokensMeta);
    const rows = Array.from({ length: 9 }, (_, token) => words.slice(4 * token, 4 * token + 4));
    expect(rows).toEqual([
      [6, 2 * 4 + 2, 0, 0],
      [7, 2 * 4 + 3, 0, 0],
      [8, 9 * 4 + 0, 0, 0],
      [9, 9 * 4 + 1, 0, 0],
      [10, 9 * 4 + 2, 0, 0],
      [9, 1 * 4 + 1, 1, 0],
      [0, 6 * 4 + 0, 2, 0],
      [1, 6 * 4 + 1, 2, 0],
      [2, 6 * 4 + 2, 2, 0],
    ]);
  });

  test("block tables, a row a sequence", async () => {
    expect(await readU32(gpu, step.blockTables)).toEqual([7, 2, 9, 0, 3, 8, 1, 5, 6, 0, 0, 0]);
  });

  test("prefix and context lengths, with the prefix only for layers that are never causal", async () => {
    const { causal, prefix } = step.sequences;
    expect(await readU32(gpu, prefix)).toEqual([0, 11, 0, 0, 5, 10, 0, 0, 3, 3, 0, 0]);
    expect(await readU32(gpu, causal)).toEqual([0, 11, 0, 0, 0, 10, 0, 0, 0, 3, 0, 0]);
  });

  test("rows of logits: no token, the last, all", async () => {
    expect(await readU32(gpu, step.logitRows)).toEqual([5, 6, 7, 8]);
  });

  test("sampling settings beside their row, zeros (greedy) where none are given", async () => {
    const words = Uint32Array.from(await readU32(gpu, step.settings));
    const floats = new Float32Array(words.buffer);
    expect([floats[0], words[1], floats[2], floats[3]]).toEqual([0.75, 40, 0.5, 0.25]);
    expect([...words.slice(4, 8)]).toEqual([0x9abc_def0, 0x1234_5678, 17, 0]);
    expect(words.length).toBe(32);
    expect(words.slice(8).every((word) => word === 0)).toBe(true);
  });

  test("shapes follow the counts; the ids sampled before keep all their rows", () => {
    expect(step.tokenIds.shape).toEqual([9]);
    expect(step.tokensMeta.shape).toEqual([9, 4]);
    expect(step.sequences.prefix.shape).toEqual([3, 4]);
    expect(step.blockTables.shape).toEqual([3, 4]);
    expect(step.logitRows.shape).toEqual([4]);
    expect(step.settings.shape).toEqual([4, 8]);
    expect(step.sampled.shape).toEqual([5]);
  });
});

test("a step writes over all that it uses of the one before, into the same memory", async () => {
  const inputs = newInputs();
  const before = inputs.write(plan);
  const after = inputs.write([{ ...decoding, tokenIds: [4, sampledRow(0)], start: 0, prefixLength: 0 }]);
  expect(after.tokenIds.buffer.id).toBe(before.tokenIds.buffer.id);
  expect(await readU32(gpu, after.tokenIds)).toEqual([4, ID_FROM_SAMPLED]);
  expect(await readU32(gpu, after.logitRows)).toEqual([1]);
  expect(await readU32(gpu, after.sequences.prefix)).toEqual([0, 2, 0, 0]);
  expect(await readU32(gpu, after.blockTables)).toEqual([3, 8, 1, 5]);
});

test("a step without logits has no rows", async () => {
  const step = newInputs().write([middle]);
  expect(step.logitRows.shape).toEqual([0]);
  expect(await readU32(gpu, step.tokenIds)).toEqual([10, 11, 12, 13, 14]);
});

describe("limits", () => {
  const long = { ...middle, tokenIds: Array.from({ length: 13 }, () => 1), start: 0, blocks: [0, 1, 2, 3] };
  const one = { ...middle, tokenIds: [1], start: 0, blocks: [0] };
  test.each<[string, SequenceStep[]]>([
    ["a step of 13 tokens: at most 12", [long]],
    ["a step of 4 sequences: at most 3", [one, one, one, one]],
    ["a step of 6 rows: at most 5", [scored, scored]],
    ["a sequence of 5 blocks: at most 4", [{ ...one, blocks: [0, 1, 2, 3, 4] }, one]],
    ["a sequence of 11 tokens: expected blocks for them, got 2 of 4", [{ ...middle, blocks: [7, 2] }]],
  ])("%s", (message, over) => {
    const write = () => newInputs().write(over);
    expect(write).toThrow(RangeError);
    expect(write).toThrow(`Cannot run ${message}`);
  });

  test("exactly at the limits is allowed", () => {
    const full = { ...long, tokenIds: long.tokenIds.slice(0, 9) };
    const plan = [
      full,
      { ...one, logits: "last" as const },
      { ...one, tokenIds: [1, 2], logits: "all" as const },
    ];
    expect(newInputs().write(plan).tokenIds.shape).toEqual([12]);
    const rows = [
      { ...scored, tokenIds: [1, 2, 3, 4], prefixLength: 0 },
      { ...one, logits: "last" as const },
    ];
    expect(newInputs().write(rows).logitRows.shape).toEqual([5]);
  });
});
