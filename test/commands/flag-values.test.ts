import { InvalidArgumentError } from "commander";
import { describe, expect, test } from "bun:test";
import {
  nonNegativeInteger,
  objectives,
  percentages,
  positiveOrInfinite,
  properFraction,
} from "../../src/commands/flag-values.ts";

describe("flag values", () => {
  test("are parsed", () => {
    expect(objectives("ttft:200,tpot:50.5,e2el:0")).toEqual({ ttft: 200, tpot: 50.5, e2el: 0 });
    expect(percentages("50,99.9")).toEqual([50, 99.9]);
    expect([positiveOrInfinite("inf"), positiveOrInfinite("0.5")]).toEqual([Infinity, 0.5]);
    expect([properFraction("0"), properFraction("0.99")]).toEqual([0, 0.99]);
    expect(nonNegativeInteger("0")).toBe(0);
  });

  const parsers = { objectives, percentages, positiveOrInfinite, properFraction, nonNegativeInteger };
  test.each<[keyof typeof parsers, string]>([
    ["objectives", "itl:5"],
    ["objectives", "ttft"],
    ["objectives", "ttft:"],
    ["objectives", "ttft:-1"],
    ["objectives", "ttft:1:2"],
    ["percentages", "101"],
    ["percentages", "50,"],
    ["positiveOrInfinite", "0"],
    ["positiveOrInfinite", "fast"],
    ["properFraction", "1"],
    ["properFraction", ""],
    ["nonNegativeInteger", ""],
    ["nonNegativeInteger", "1.5"],
  ])("are refused: %s of %p", (name, text) => {
    expect(() => parsers[name](text)).toThrow(InvalidArgumentError);
  });
});
