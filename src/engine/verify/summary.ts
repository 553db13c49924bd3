/** What all cases together show. Pure. */
import type { CaseResult, ExactMatch } from "./judge.ts";
import type { Tolerance } from "./tolerance.ts";

export interface Summary {
  passed: boolean;
  /** Golden answers of which every id was reproduced, of how many. */
  answers: { exact: number; all: number };
  /** Greedy ids of golden answers. */
  greedy: { matched: number; all: number };
  /** Mean error of the log-probabilities of golden ids, in nats, or null where none is known. */
  logprobError: number | null;
  exactMatch: ExactMatch;
}

/** With a `greedyShare` golden answers pass together; without, each must pass on its own. */
export function summarize(results: readonly CaseResult[], tolerance: Tolerance): Summary {
  const { greedyShare = 0, exactMatchLoss = 1 } = tolerance;
  const golden = results.filter(({ relativeRms }) => relativeRms === null);
  const sum = (value: (result: CaseResult) => number) =>
    golden.reduce((total, result) => total + value(result), 0);
  const greedy = {
    matched: sum(({ greedy }) => greedy.matched - greedy.ties),
    all: sum(({ greedy }) => greedy.all),
  };
  const exact = golden.filter(({ greedy }) => greedy.matched - greedy.ties === greedy.all).length;
  const known = sum(({ logprobError }) => logprobError.count);
  const exactMatch = sumMatches(results);
  const isRightEnough = exactMatch.golden - exactMatch.own <= exactMatchLoss * exactMatch.all;
  const isFaithful = greedy.matched >= greedyShare * greedy.all;
  return {
    passed: results.every(({ passed }) => passed) && isFaithful && isRightEnough,
    answers: { exact, all: golden.length },
    greedy,
    logprobError: known === 0 ? null : sum(({ logprobError }) => logprobError.sum) / known,
    exactMatch,
  };
}

export function sumMatches(results: readonly CaseResult[]): ExactMatch {
  const sum = { own: 0, golden: 0, both: 0, all: 0 };
  for (const { exactMatch } of results) {
    sum.own += exactMatch.own;
    sum.golden += exactMatch.golden;
    sum.both += exactMatch.both;
    sum.all += exactMatch.all;
  }
  return sum;
}
