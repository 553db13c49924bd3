/** What all cases together show. Pure. */
import type { CaseResult } from "./judge.ts";
import type { Tolerance } from "./tolerance.ts";

export interface Summary {
  passed: boolean;
  /** Golden answers of which every id was reproduced, of how many. */
  answers: { exact: number; all: number };
  /** Greedy ids of golden answers. */
  greedy: { matched: number; all: number };
  /** Mean error of the log-probabilities of golden ids, in nats, or null where none is known. */
  logprobError: number | null;
}

/** With a `greedyShare` golden answers pass together; without, each must pass on its own. */
export function summarize(results: readonly CaseResult[], { greedyShare = 0 }: Tolerance): Summary {
  const golden = results.filter(({ relativeRms }) => relativeRms === null);
  const sum = (value: (result: CaseResult) => number) =>
    golden.reduce((total, result) => total + value(result), 0);
  const greedy = {
    matched: sum(({ greedy }) => greedy.matched - greedy.ties),
    all: sum(({ greedy }) => greedy.all),
  };
  const exact = golden.filter(({ greedy }) => greedy.matched - greedy.ties === greedy.all).length;
  const known = sum(({ logprobError }) => logprobError.count);
  return {
    passed: results.every(({ passed }) => passed) && greedy.matched >= greedyShare * greedy.all,
    answers: { exact, all: golden.length },
    greedy,
    logprobError: known === 0 ? null : sum(({ logprobError }) => logprobError.sum) / known,
  };
}
