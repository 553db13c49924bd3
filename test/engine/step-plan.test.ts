import { describe, expect, test } from "bun:test";
import {
  type Rectangle,
  rectangleRows,
  rowCount,
  rowOfSampled,
  sampledRow,
  tokenCount,
} from "../../src/engine/step-plan.ts";
import { greedyRow, rectangle } from "../support/rectangle.ts";

function sized(length: number, logits: Rectangle["logits"], answers = 0): Rectangle {
  const sampling = Array.from({ length: answers }, () => greedyRow);
  return rectangle({ tokenIds: Array.from({ length }, () => 1), logits, sampling });
}

describe("step plan", () => {
  test("a reference to a sampled row is told from every id", () => {
    for (const row of [0, 1, 255]) {
      expect(rowOfSampled(sampledRow(row))).toBe(row);
      expect(sampledRow(row)).toBeLessThan(0);
    }
    for (const id of [0, 1, 262_143]) expect(rowOfSampled(id)).toBeNull();
  });

  test("a rectangle's rows: none, one for each answer and at least one, or one for each token", () => {
    expect(rectangleRows(sized(5, "none"))).toBe(0);
    expect(rectangleRows(sized(5, "last"))).toBe(1);
    expect(rectangleRows(sized(5, "last", 1))).toBe(1);
    expect(rectangleRows(sized(5, "last", 4))).toBe(4);
    expect(rectangleRows(sized(5, "all"))).toBe(5);
  });

  test("counts tokens and rows of logits", () => {
    const batch = [sized(5, "none"), sized(3, "last", 2), sized(4, "all"), sized(1, "last")];
    expect(tokenCount(batch)).toBe(13);
    expect(rowCount(batch)).toBe(7);
    expect([tokenCount([]), rowCount([])]).toEqual([0, 0]);
  });
});
