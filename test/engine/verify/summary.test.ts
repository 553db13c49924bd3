import { describe, expect, test } from "bun:test";
import type { CaseResult } from "../../../src/engine/verify/judge.ts";
import { lossyTolerance } from "../../../src/engine/verify/lossy.ts";
import { summarize } from "../../../src/engine/verify/summary.ts";
import { exact } from "../../../src/engine/verify/tolerance.ts";

function result(matched: number, all: number, changes: Partial<CaseResult> = {}): CaseResult {
  return {
    name: "case",
    group: "golden",
    relativeRms: null,
    worst: 0,
    logprobError: { sum: 0.5 * all, count: all },
    greedy: { matched, ties: 0, all },
    passed: true,
    exactMatch: { own: 0, golden: 0, both: 0, all: 0 },
    ...changes,
  };
}

describe("summary", () => {
  const results = [result(10, 10), result(9, 10), result(20, 20), result(0, 4, { relativeRms: 0.1 })];

  test("counts answers and ids of golden cases; a reference has its logits to be judged by", () => {
    const summary = summarize(results, { ...exact, greedyShare: 0.96 });
    expect(summary).toEqual({
      passed: true,
      answers: { exact: 2, all: 3 },
      greedy: { matched: 39, all: 40 },
      logprobError: 0.5,
      exactMatch: { own: 0, golden: 0, both: 0, all: 0 },
    });
  });

  test("passes from the share on, and if every case does", () => {
    expect(summarize(results, { ...exact, greedyShare: 39 / 40 }).passed).toBe(true);
    expect(summarize(results, { ...exact, greedyShare: 0.98 }).passed).toBe(false);
    const failed = result(10, 10, { passed: false });
    expect(summarize([...results, failed], { ...exact, greedyShare: 0.5 }).passed).toBe(false);
    expect(summarize(results, exact).passed).toBe(true);
  });

  test("a near tie is no match", () => {
    const tied = result(10, 10, { greedy: { matched: 10, ties: 1, all: 10 } });
    expect(summarize([tied], exact)).toMatchObject({ answers: { exact: 0 }, greedy: { matched: 9 } });
  });

  test("right answers are added up, and what is gained makes up for what is lost", () => {
    const matches = [
      { own: 0, golden: 2, both: 0, all: 30 },
      { own: 1, golden: 0, both: 0, all: 20 },
    ];
    const answers = matches.map((exactMatch) => result(10, 10, { exactMatch }));
    const summary = summarize(answers, { ...exact, exactMatchLoss: 0.02 });
    expect(summary).toMatchObject({ passed: true, exactMatch: { own: 1, golden: 2, both: 0, all: 50 } });
    expect(summarize(answers, { ...exact, exactMatchLoss: 0.019 }).passed).toBe(false);
    expect(summarize(answers, exact).passed).toBe(true);
  });
});

describe("tolerance of lossy formats", () => {
  const none = { quantization: null, int8KvHeadDim: null, passes: 12 };
  const int8 = { ...none, quantization: { format: "int8", group: 32 } } as const;
  const int4 = { ...none, quantization: { format: "int4", group: 32 } } as const;
  const bound = (formats: Parameters<typeof lossyTolerance>[1]) => lossyTolerance(exact, formats).relativeRms;

  test("is the other formats' own where nothing is rounded to integers", () => {
    expect(lossyTolerance(exact, none)).toBe(exact);
  });

  test("grows with the root of the passes, and by the ratio of the steps", () => {
    expect(bound({ ...int8, passes: 48 }) / bound(int8)).toBeCloseTo(2, 1);
    expect(bound({ ...int4, passes: 0 })).toBeCloseTo(bound({ ...int8, passes: 0 }), 10); // the head alone
    const [few, fewer] = [
      lossyTolerance(exact, { ...int4, passes: 1 }),
      lossyTolerance(exact, { ...int8, passes: 1 }),
    ];
    expect(few.relativeRms / fewer.relativeRms).toBeCloseTo((127 / 8) * Math.sqrt(4 / 5), 0);
  });

  test("squares add up, and unrelated logits are the most", () => {
    const kv = bound({ ...none, int8KvHeadDim: 64 });
    expect(bound({ ...int8, int8KvHeadDim: 64 })).toBeCloseTo(Math.hypot(kv, bound(int8)), 6);
    expect(bound({ ...int4, passes: 1000 })).toBe(Math.SQRT2);
  });

  test("asks 99 % of ids and all right answers but 1 % in 8 bits, 96 % and 4 % in 4", () => {
    const eight = { greedyShare: 0.99, exactMatchLoss: 0.01 };
    expect(lossyTolerance(exact, { ...none, int8KvHeadDim: 24 })).toMatchObject(eight);
    expect(lossyTolerance(exact, int8)).toMatchObject(eight);
    const four = { greedyShare: 0.96, exactMatchLoss: 0.04 };
    expect(lossyTolerance(exact, { ...int4, int8KvHeadDim: 64 })).toMatchObject(four);
  });
});
