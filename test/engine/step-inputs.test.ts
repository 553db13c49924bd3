import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type BatchLimits, StepInputs } from "../../src/engine/step-inputs.ts";
import { type Rectangle, type RowSampling, sampledRow } from "../../src/engine/step-plan.ts";
import { ID_FROM_SAMPLED } from "../../src/gpu/kernels/embedding.ts";
import { testGpu } from "../support/gpu.ts";
import { readU32 } from "../support/read-tensor.ts";
import { greedyRow, rectangle } from "../support/rectangle.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
const limits: BatchLimits = { tokens: 12, sequences: 3, rows: 5, blocksPerSequence: 4, blockSize: 4 };
const groupCount = 2;
const noSlot = 0xffffffff;

function newInputs(): StepInputs {
  return new StepInputs(gpu.device, limits, { groups: groupCount, heads: 12 });
}

const sampling: RowSampling = {
  temperature: 0.75,
  topK: 40,
  topP: 0.5,
  minP: 0.25,
  seed: 0x1234_5678_9abc_def0n,
  step: 17,
};

/**
 * Five tokens across a block's end, blocks shuffled, of which the first is not written; a decoding sequence whose
 * first blocks the second group has given back; a prompt of which all logits are wanted.
 */
const middle = rectangle({
  tokenIds: [10, 11, 12, 13, 14],
  start: 6,
  writeStart: 7,
  tables: [
    [7, 2, 9],
    [1, 3, 2],
  ],
  logits: "none",
});
const decoding = rectangle({
  tokenIds: [sampledRow(1)],
  start: 9,
  prefixLength: 5,
  tables: [
    [3, 8, 1, 5],
    [0, 0, 4, 6],
  ],
  sampling: [sampling],
});
const scored = rectangle({
  tokenIds: [20, 21, 22],
  prefixLength: 3,
  tables: [[6], [5]],
  logits: "all",
});
const batch = [middle, decoding, scored];

describe("what a step's tensors hold", () => {
  const step = newInputs().write(batch);

  test("ids, with references to sampled rows marked", async () => {
    const ids = await readU32(gpu, step.tokenIds);
    expect(ids).toEqual([10, 11, 12, 13, 14, ID_FROM_SAMPLED + 1, 20, 21, 22]);
  });

  test.each([
    [0, [7, 2, 9], [3, 8, 1, 5], [6]],
    [1, [1, 3, 2], [0, 0, 4, 6], [5]],
  ])("position, slot by the block table of group %i, and sequence of each token", async (group, a, b, c) => {
    const words = await readU32(gpu, step.groups[group].tokensMeta);
    const rows = Array.from({ length: 9 }, (_, token) => words.slice(4 * token, 4 * token + 4));
    expect(rows).toEqual([
      [6, noSlot, 0, 0],
      [7, a[1] * 4 + 3, 0, 0],
      [8, a[2] * 4 + 0, 0, 0],
      [9, a[2] * 4 + 1, 0, 0],
      [10, a[2] * 4 + 2, 0, 0],
      [9, b[2] * 4 + 1, 1, 0],
      [0, c[0] * 4 + 0, 2, 0],
      [1, c[0] * 4 + 1, 2, 0],
      [2, c[0] * 4 + 2, 2, 0],
    ]);
  });

  test("block tables of each group, a row a sequence", async () => {
    const tables = await Promise.all(step.groups.map(({ blockTables }) => readU32(gpu, blockTables)));
    expect(tables).toEqual([
      [7, 2, 9, 0, 3, 8, 1, 5, 6, 0, 0, 0],
      [1, 3, 2, 0, 0, 0, 4, 6, 5, 0, 0, 0],
    ]);
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
    expect(step.groups.map(({ tokensMeta }) => tokensMeta.shape)).toEqual([
      [9, 4],
      [9, 4],
    ]);
    expect(step.sequences.prefix.shape).toEqual([3, 4]);
    expect(step.groups.map(({ blockTables }) => blockTables.shape)).toEqual([
      [3, 4],
      [3, 4],
    ]);
    expect(step.logitRows.shape).toEqual([4]);
    expect(step.settings.shape).toEqual([4, 8]);
    expect(step.sampled.shape).toEqual([5]);
  });
});

describe("n answers from one prompt", () => {
  const seeds = [7n, 8n, 9n];
  const forked = {
    ...scored,
    logits: "last" as const,
    sampling: seeds.map((seed) => ({ ...sampling, seed })),
  };

  test("are rows of its last token, each with its own settings", async () => {
    const step = newInputs().write([middle, forked, decoding]);
    expect(await readU32(gpu, step.logitRows)).toEqual([7, 7, 7, 8]);
    const words = await readU32(gpu, step.settings);
    expect([0, 1, 2, 3].map((row) => words[8 * row + 4])).toEqual([7, 8, 9, 0x9abc_def0]);
  });

  test("count as rows against the limit", () => {
    const four = { ...forked, sampling: [...forked.sampling, greedyRow] };
    expect(newInputs().write([four, decoding]).logitRows.shape).toEqual([5]);
    expect(() => newInputs().write([four, decoding, { ...decoding, sampling: [] }])).toThrow(
      "Cannot run a step of 6 rows: at most 5",
    );
  });
});

test("a token that is not written keeps its position and its keys: only its slot is none", async () => {
  const again = rectangle({
    tokenIds: [5],
    start: 6,
    writeStart: 7,
    prefixLength: 7,
    tables: [
      [7, 2],
      [1, 3],
    ],
  });
  const step = newInputs().write([again]);
  for (const { tokensMeta } of step.groups) expect(await readU32(gpu, tokensMeta)).toEqual([6, noSlot, 0, 0]);
  expect(await readU32(gpu, step.sequences.prefix)).toEqual([7, 7, 0, 0]);
});

test("a step writes over all that it uses of the one before, into the same memory", async () => {
  const inputs = newInputs();
  const before = inputs.write(batch);
  const after = inputs.write([
    { ...decoding, tokenIds: [4, sampledRow(0)], start: 0, writeStart: 0, prefixLength: 0 },
  ]);
  expect(after.tokenIds.buffer.id).toBe(before.tokenIds.buffer.id);
  expect(await readU32(gpu, after.tokenIds)).toEqual([4, ID_FROM_SAMPLED]);
  expect(await readU32(gpu, after.logitRows)).toEqual([1]);
  expect(await readU32(gpu, after.sequences.prefix)).toEqual([0, 2, 0, 0]);
  expect(await readU32(gpu, after.groups[0].blockTables)).toEqual([3, 8, 1, 5]);
  expect(await readU32(gpu, after.groups[1].tokensMeta)).toEqual([0, 0, 0, 0, 1, 1, 0, 0]);
});

test("a step without logits has no rows", async () => {
  const step = newInputs().write([middle]);
  expect(step.logitRows.shape).toEqual([0]);
  expect(await readU32(gpu, step.tokenIds)).toEqual([10, 11, 12, 13, 14]);
});

describe("limits", () => {
  const both = (table: number[]) => [table, table];
  const tokens = (count: number) => Array.from({ length: count }, () => 1);
  const long = rectangle({ tokenIds: tokens(13), tables: both([1, 2, 3, 4]), logits: "none" });
  const one = rectangle({ tables: both([1]), logits: "none" });
  test.each<[string, Rectangle[]]>([
    ["a step of 13 tokens: at most 12", [long]],
    ["a step of 4 sequences: at most 3", [one, one, one, one]],
    ["a step of 6 rows: at most 5", [scored, scored]],
    ["a sequence of 5 blocks: at most 4", [{ ...one, tables: both([1, 2, 3, 4, 5]) }, one]],
    [
      "a sequence of 11 tokens: expected blocks for them, got 2 of 4",
      [
        {
          ...middle,
          tables: [
            [7, 2, 9],
            [1, 3],
          ],
        },
      ],
    ],
  ])("%s", (message, over) => {
    const write = () => newInputs().write(over);
    expect(write).toThrow(RangeError);
    expect(write).toThrow(`Cannot run ${message}`);
  });

  test("exactly at the limits is allowed", () => {
    const full = { ...long, tokenIds: tokens(9) };
    const last = { ...one, logits: "last" as const };
    const all = (count: number) => ({ ...one, tokenIds: tokens(count), logits: "all" as const });
    expect(newInputs().write([full, last, all(2)]).tokenIds.shape).toEqual([12]);
    expect(newInputs().write([all(4), last]).logitRows.shape).toEqual([5]);
  });
});
