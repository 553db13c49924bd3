import { describe, expect, test } from "bun:test";
import type { VerifyCase } from "../../../src/engine/verify/cases.ts";
import { judge, matchAnswer } from "../../../src/engine/verify/judge.ts";

const tolerance = { relativeRms: 1e-3, logprob: 1e-2 };

function golden(changes: Partial<VerifyCase> = {}): VerifyCase {
  return {
    name: "case",
    group: "golden",
    promptIds: [1, 2],
    prefixLength: 0,
    greedyIds: [],
    promptLogits: null,
    decodeLogits: null,
    logprobs: null,
    firstLogits: null,
    right: null,
    ...changes,
  };
}

/** Rows of logits over four tokens. */
function rows(...values: number[][]): Float32Array[] {
  return values.map((row) => Float32Array.from(row));
}

const flat = (list: readonly Float32Array[]) => Float32Array.from(list.flatMap((row) => [...row]));

describe("reference logits", () => {
  const exact = rows([1, 2, 3, 4], [4, 3, 2, 1], [0, 8, 1, 2]);
  const expected = golden({
    greedyIds: [0],
    promptLogits: flat(exact.slice(0, 2)),
    decodeLogits: flat(exact.slice(2)),
  });

  test("equal ones pass without an error", () => {
    expect(judge(expected, exact, tolerance)).toEqual({
      name: "case",
      group: "golden",
      relativeRms: 0,
      worst: 0,
      logprobError: { sum: 0, count: 0 },
      greedy: { matched: 1, ties: 0, all: 1 },
      passed: true,
    });
  });

  test("the error is relative over prompt and decode steps together", () => {
    const off = rows([1, 2, 3, 4], [4, 3, 2, 1], [0, 8, 1, 2.25]);
    const { relativeRms, worst, passed } = judge(expected, off, tolerance);
    const norm = flat(exact).reduce((sum, value) => sum + value * value, 0);
    expect(relativeRms).toBeCloseTo(0.25 / Math.sqrt(norm), 12);
    expect(worst).toBe(0.25);
    expect(passed).toBe(false);
    const enough = { ...tolerance, relativeRms: (relativeRms ?? 0) * 1.0001 };
    expect(judge(expected, off, enough).passed).toBe(true);
  });

  test.each([NaN, Infinity, -Infinity])("%s never passes, wherever it is", (value) => {
    for (let row = 0; row < 3; row++) {
      for (let column = 0; column < 4; column++) {
        const broken = exact.map((logits) => logits.slice());
        broken[row][column] = value;
        const endless = { relativeRms: 1e30, logprob: 1e30 };
        expect([row, column, judge(expected, broken, endless).passed]).toEqual([row, column, false]);
      }
    }
  });

  test("a row too few does not pass", () => {
    expect(judge({ ...expected, greedyIds: [] }, exact.slice(0, 2), tolerance).passed).toBe(false);
    expect(judge({ ...expected, greedyIds: [] }, exact, tolerance).passed).toBe(true);
  });

  test("expected zeros are met by zeros only", () => {
    const zeros = golden({ promptLogits: new Float32Array(8) });
    expect(judge(zeros, rows([0, 0, 0, 0], [0, 0, 0, 0]), tolerance).passed).toBe(true);
    expect(judge(zeros, rows([0, 0, 0, 0], [0, 0, 1, 0]), tolerance).passed).toBe(false);
  });
});

describe("golden answers", () => {
  const [p0, p1] = [Math.log(1 / 4), Math.log(3 / 4)];
  const answers = rows([p0, p1, -40, -40], [p1, p0, -40, -40], [p0, p1, -40, -40]);
  const expected = golden({ greedyIds: [1, 0, 1], logprobs: [p1, p1, p1] });

  test("log-probabilities within the tolerance pass, those beyond do not", () => {
    expect(judge(expected, answers, tolerance).passed).toBe(true);
    const near = { ...expected, logprobs: [p1, p1 - 0.009, p1] };
    expect(judge(near, answers, tolerance)).toMatchObject({ passed: true, relativeRms: null });
    expect(judge(near, answers, tolerance).worst).toBeCloseTo(0.009, 5);
    expect(judge({ ...expected, logprobs: [p1, p1 - 0.011, p1] }, answers, tolerance).passed).toBe(false);
  });

  test("they are those of a softmax: a constant added to a row changes nothing", () => {
    const moved = answers.map((row) => row.map((value) => value + 20));
    expect(judge(expected, moved, tolerance).passed).toBe(true);
    const sharper = answers.map((row) => row.map((value) => value * 2));
    expect(judge(expected, sharper, tolerance).passed).toBe(false);
  });

  test("known logits of the first token must be met as they are", () => {
    const known = golden({ greedyIds: [1], firstLogits: [[1, p1]] });
    expect(judge(known, answers, tolerance).passed).toBe(true);
    const wrong = golden({ greedyIds: [1], firstLogits: [[1, p1 + 5]] });
    expect(judge(wrong, answers, tolerance)).toMatchObject({ passed: false });
  });

  test("a large error elsewhere makes no near tie of a wrong id", () => {
    const wrong = golden({ greedyIds: [0], firstLogits: [[1, p1 + 5]] });
    expect(judge(wrong, answers, tolerance).passed).toBe(false);
  });

  test.each([NaN, Infinity])("%s never passes, whatever is known and wherever it is", (value) => {
    for (const known of [expected, golden({ greedyIds: [1, 0, 1] }), golden({ greedyIds: [0, 0, 0] })]) {
      for (let row = 0; row < 3; row++) {
        for (let column = 0; column < 4; column++) {
          const broken = answers.map((logits) => logits.slice());
          broken[row][column] = value;
          const { passed } = judge(known, broken, tolerance);
          expect([row, column, passed]).toEqual([row, column, false]);
        }
      }
    }
  });
});

describe("lossy formats", () => {
  const lossy = { relativeRms: 0.5, logprob: Infinity, greedyShare: 0.9 };
  const answers = rows([0, 1, 0, 0], [0, 0, 3, 1]);

  test("a missed id fails no case, and no near tie hides it", () => {
    const missed = golden({ greedyIds: [0, 2], logprobs: [-9, -9] });
    const result = judge(missed, answers, lossy);
    expect(result).toMatchObject({ passed: true, greedy: { matched: 1, ties: 0, all: 2 } });
    expect(result.logprobError.count).toBe(2);
    expect(result.logprobError.sum).toBeGreaterThan(9);
  });

  test("logits beyond the tolerance and NaN fail", () => {
    const reference = golden({ promptIds: [5], promptLogits: Float32Array.of(0, 1, 0, 0), greedyIds: [0] });
    expect(judge(reference, rows([0, 1.4, 0, 0]), lossy).passed).toBe(true);
    expect(judge(reference, rows([0, 1.6, 0, 0]), lossy).passed).toBe(false);
    expect(judge(golden({ greedyIds: [1] }), rows([0, 1, NaN, 0]), lossy).passed).toBe(false);
  });
});

describe("greedy ids", () => {
  const close = rows([1, 1 + 2 ** -10, 0, 0], [0, 0, 3, 1]);
  const reference = golden({ promptIds: [5], promptLogits: Float32Array.of(1, 1 + 2 ** -10, 0, 0) });

  test("another id fails where nothing explains it", () => {
    const result = judge(golden({ greedyIds: [0, 2] }), close, tolerance);
    expect(result.greedy).toEqual({ matched: 1, ties: 0, all: 2 });
    expect(result.passed).toBe(false);
  });

  test("equal logits are a tie", () => {
    const result = judge(golden({ greedyIds: [1] }), rows([1, 1, 0, 0]), tolerance);
    expect(result.greedy).toEqual({ matched: 1, ties: 1, all: 1 });
    expect(result.passed).toBe(true);
  });

  test("a gap of up to twice the largest error is a tie, and is counted as one", () => {
    const swapped = { ...reference, promptLogits: Float32Array.of(1 + 2 ** -10, 1, 0, 0), greedyIds: [0, 2] };
    const result = judge(swapped, close, { ...tolerance, relativeRms: 1e-2 });
    expect(result.worst).toBe(2 ** -10);
    expect(result.greedy).toEqual({ matched: 2, ties: 1, all: 2 });
    expect(result.passed).toBe(true);
  });

  test("a gap beyond twice the largest error is a miss", () => {
    const error = 2 ** -12;
    const near = {
      ...reference,
      promptLogits: Float32Array.of(1 + error, 1 + 2 ** -10, 0, 0),
      greedyIds: [0],
    };
    const result = judge(near, close, { ...tolerance, relativeRms: 1 });
    expect(result.worst).toBe(error);
    expect(result).toMatchObject({ passed: false, greedy: { matched: 0, ties: 0, all: 1 } });
  });
});

describe("exact match", () => {
  const right = (isGreedy: boolean) => golden({ right: { text: "1,426", isGreedy } });

  test("counts answers that equal the right one, the engine's and the file's", () => {
    expect(matchAnswer(right(true), "1,426")).toEqual({ own: 1, golden: 1, both: 1, all: 1 });
    expect(matchAnswer(right(true), "1426")).toEqual({ own: 0, golden: 1, both: 0, all: 1 });
    expect(matchAnswer(right(false), "1,426")).toEqual({ own: 1, golden: 0, both: 0, all: 1 });
    expect(matchAnswer(right(false), null)).toEqual({ own: 0, golden: 0, both: 0, all: 1 });
  });

  test("an answer without end, or to a prompt whose right answer is not known, matches nothing", () => {
    expect(matchAnswer(golden({ right: { text: "", isGreedy: true } }), null).own).toBe(0);
    expect(matchAnswer(golden(), "1,426")).toEqual({ own: 0, golden: 0, both: 0, all: 0 });
  });
});
