import { describe, expect, test } from "bun:test";
import {
  rowCount,
  rowOfSampled,
  sampledRow,
  type SequenceStep,
  tokenCount,
} from "../../src/engine/step-plan.ts";

function sequence(length: number, logits: SequenceStep["logits"]): SequenceStep {
  return { tokenIds: Array.from({ length }, () => 1), start: 0, prefixLength: 0, blocks: [0], logits };
}

describe("step plan", () => {
  test("a reference to a sampled row is told from every id", () => {
    for (const row of [0, 1, 255]) {
      expect(rowOfSampled(sampledRow(row))).toBe(row);
      expect(sampledRow(row)).toBeLessThan(0);
    }
    for (const id of [0, 1, 262_143]) expect(rowOfSampled(id)).toBeNull();
  });

  test("counts tokens and rows of logits", () => {
    const plan = [sequence(5, "none"), sequence(3, "last"), sequence(4, "all"), sequence(1, "last")];
    expect(tokenCount(plan)).toBe(13);
    expect(rowCount(plan)).toBe(6);
    expect([tokenCount([]), rowCount([])]).toEqual([0, 0]);
  });
});
