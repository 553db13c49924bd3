/** Compares a case's logits, and the engine's own answer, with what was expected of them. Pure. */
import type { VerifyCase } from "./cases.ts";
import type { Tolerance } from "./tolerance.ts";

/** Answers that equal the right one: counts, of one case or of many. */
export interface ExactMatch {
  /** The engine's own. */
  own: number;
  /** Those of the model that made the file. */
  golden: number;
  both: number;
  /** Answers of which the right one is known. */
  all: number;
}

export interface CaseResult extends Judgement {
  exactMatch: ExactMatch;
}

/** What the logits show where the greedy ids are fed. */
export interface Judgement {
  name: string;
  group: string;
  /** ||actual - expected|| / ||expected|| over all logits known, or null. */
  relativeRms: number | null;
  /** Largest difference of a logit or log-probability. */
  worst: number;
  /** Of the log-probabilities known: their errors added up, and how many there are. */
  logprobError: { sum: number; count: number };
  /** Greedy ids reproduced, of how many; near ties count as reproduced but are named. */
  greedy: { matched: number; ties: number; all: number };
  passed: boolean;
}

/** `rows` are the logits after the prompt (all its tokens, or the last), then after each fed greedy id. */
export function judge(expected: VerifyCase, rows: readonly Float32Array[], tolerance: Tolerance): Judgement {
  const promptRows = expected.promptLogits ? expected.promptIds.length : 1;
  const error = new ErrorSum();
  if (expected.promptLogits) error.addRows(rows.slice(0, promptRows), expected.promptLogits);
  if (expected.decodeLogits) error.addRows(rows.slice(promptRows), expected.decodeLogits);
  const generated = rows.slice(promptRows - 1);
  const logprobErrors = logprobErrorsOf(expected, generated);
  const logprobWorst = Math.max(0, ...logprobErrors);
  const firstWorst = worstFirst(expected, generated[0]);
  const worst = Math.max(error.worst, logprobWorst, firstWorst);
  const isLossy = tolerance.greedyShare !== undefined;
  const tie = isLossy ? 0 : Math.max(2 * worst, Number.EPSILON);
  const greedy = matchGreedy(expected.greedyIds, generated, tie);
  const { relativeRms } = error;
  const isClose = relativeRms === null || relativeRms <= tolerance.relativeRms;
  // Of most golden rows nothing is known but the best id, which a NaN beside it would not change.
  const isFinite = rows.every((row) => row.every(Number.isFinite));
  // Every error counts, also because ties are as wide as the largest of them.
  const isNear = logprobWorst <= tolerance.logprob && firstWorst <= tolerance.logprob;
  const passed = isFinite && isClose && isNear && (isLossy || greedy.matched === greedy.all);
  const logprobError = { sum: logprobErrors.reduce((a, b) => a + b, 0), count: logprobErrors.length };
  const { name, group } = expected;
  return { name, group, relativeRms, worst, logprobError, greedy, passed };
}

/** `answer` is the text that the engine made of its own ids, or null where it came to no end. */
export function matchAnswer({ right }: VerifyCase, answer: string | null): ExactMatch {
  if (!right) return { own: 0, golden: 0, both: 0, all: 0 };
  const [own, golden] = [Number(answer === right.text), Number(right.isGreedy)];
  return { own, golden, both: own * golden, all: 1 };
}

/** Sums of squares; a NaN anywhere, or a row that is missing, makes the result infinite, so that it cannot pass. */
class ErrorSum {
  worst = 0;
  #error = 0;
  #norm = 0;
  #isUsed = false;

  addRows(rows: readonly Float32Array[], expected: Float32Array): void {
    this.#isUsed = true;
    const length = rows.reduce((sum, row) => sum + row.length, 0);
    if (length !== expected.length) this.#add(Infinity);
    rows.forEach((row, index) => {
      row.forEach((value, column) => {
        const wanted = expected[index * row.length + column];
        this.#add(Math.abs(value - wanted));
        this.#norm += wanted * wanted;
      });
    });
  }

  #add(difference: number): void {
    const known = Number.isNaN(difference) ? Infinity : difference;
    this.#error += known * known;
    this.worst = Math.max(this.worst, known);
  }

  /** Null when there was nothing to compare. */
  get relativeRms(): number | null {
    if (!this.#isUsed) return null;
    return this.#error === 0 ? 0 : Math.sqrt(this.#error / this.#norm);
  }
}

function logprobErrorsOf({ logprobs, greedyIds }: VerifyCase, rows: readonly Float32Array[]): number[] {
  return (logprobs ?? []).map((wanted, step) => Math.abs(logSoftmax(rows[step], greedyIds[step]) - wanted));
}

function worstFirst({ firstLogits }: VerifyCase, row: Float32Array): number {
  return Math.max(0, ...(firstLogits ?? []).map(([id, logit]) => Math.abs(row[id] - logit)));
}

function logSoftmax(row: Float32Array, id: number): number {
  const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
  return row[id] - most - Math.log(row.reduce((sum, value) => sum + Math.exp(value - most), 0));
}

function matchGreedy(
  greedyIds: readonly number[],
  rows: readonly Float32Array[],
  tie: number,
): CaseResult["greedy"] {
  let matched = 0;
  let ties = 0;
  greedyIds.forEach((id, step) => {
    const row = rows[step];
    const best = argMax(row);
    if (best === id) matched++;
    else if (row[best] - row[id] <= tie) {
      matched++;
      ties++;
    }
  });
  return { matched, ties, all: greedyIds.length };
}

export function argMax(row: Float32Array): number {
  return row.reduce((best, value, index) => (value > row[best] ? index : best), 0);
}
