/** What `prelude verify` prints of its results. Pure. */
import type { CaseResult, ExactMatch } from "../engine/verify/judge.ts";
import { type Summary, sumMatches } from "../engine/verify/summary.ts";
import type { Tolerance } from "../engine/verify/tolerance.ts";

interface ReportOptions {
  /** Every case even where there are many. */
  verbose: boolean;
  seconds: number;
  summary: Summary;
  tolerance: Tolerance;
}

/** More cases than this are summed up by group. */
const casesListedMax = 40;

/** Lines: a table of cases (or groups), then what they show together. */
export function verifyReport(results: readonly CaseResult[], options: ReportOptions): string[] {
  const { verbose, seconds, summary, tolerance } = options;
  const isLong = results.length > casesListedMax && !verbose;
  const rows = isLong ? [...sumUp(results), ...results.filter(({ passed }) => !passed)] : results;
  const failed = results.filter(({ passed }) => !passed).length;
  const lines = [
    "case                            rel. RMS    worst      greedy   exact",
    ...rows.map(line),
    `${results.length - failed} passed, ${failed} failed in ${seconds.toFixed(1)} s`,
  ];
  if (summary.exactMatch.all > 0) lines.push(describeMatch(summary.exactMatch, tolerance));
  if (tolerance.greedyShare !== undefined) lines.push(...describeLossy(summary, tolerance, results));
  return lines;
}

function describeMatch({ own, golden, both, all }: ExactMatch, { exactMatchLoss }: Tolerance): string {
  const points = (100 * (golden - own)) / all;
  const difference = `${Math.abs(points).toFixed(1)} points ${points > 0 ? "less" : "more"} than`;
  const compared = points === 0 ? "as many as" : difference;
  const bound = exactMatchLoss === undefined ? "" : ` (${100 * exactMatchLoss} less pass)`;
  return (
    `Exact match: ${own} of ${all} (${percent(own, all)}), ${compared} the golden answers' ${golden}${bound}; ` +
    `${golden - both} lost, ${own - both} gained`
  );
}

function percent(part: number, all: number): string {
  return `${((100 * part) / all).toFixed(1)} %`;
}

function describeLossy(
  { passed, answers, greedy, logprobError }: Summary,
  { relativeRms, greedyShare = 0 }: Tolerance,
  results: readonly CaseResult[],
): string[] {
  const lines: string[] = [];
  if (answers.all > 0) {
    const ids = `greedy ids ${percent(greedy.matched, greedy.all)} (${100 * greedyShare} % pass)`;
    const answered = `answers reproduced: ${answers.exact} of ${answers.all} (${percent(answers.exact, answers.all)})`;
    const error =
      logprobError === null ? "" : `; log-probabilities off by ${logprobError.toFixed(4)} on average`;
    lines.push(`Lossy formats: ${answered}; ${ids}${error}`);
  }
  if (answers.all < results.length)
    lines.push(`Lossy formats: rel. RMS up to ${relativeRms.toExponential(1)} passes`);
  lines.push(passed ? "All in all passed" : "All in all FAILED");
  return lines;
}

function line({ name, relativeRms, worst, greedy, exactMatch, passed }: CaseResult): string {
  const ties = greedy.ties > 0 ? ` (${greedy.ties} near ties)` : "";
  return [
    name.slice(0, 30).padEnd(30),
    (relativeRms?.toExponential(1) ?? "-").padStart(9),
    worst.toExponential(1).padStart(8),
    `${greedy.matched}/${greedy.all}`.padStart(11),
    (exactMatch.all > 0 ? `${exactMatch.own}/${exactMatch.all}` : "-").padStart(7),
    `${passed ? "ok" : "FAILED"}${ties}`,
  ].join(" ");
}

/** One row a group, with its worst figures. */
function sumUp(results: readonly CaseResult[]): CaseResult[] {
  const groups = Map.groupBy(results, ({ group }) => group);
  return [...groups].map(([group, members]) => ({
    name: `${group} (${members.length})`,
    group,
    relativeRms: members.some((member) => member.relativeRms !== null)
      ? Math.max(...members.map((member) => member.relativeRms ?? 0))
      : null,
    worst: Math.max(...members.map(({ worst }) => worst)),
    logprobError: {
      sum: members.reduce((sum, { logprobError }) => sum + logprobError.sum, 0),
      count: members.reduce((sum, { logprobError }) => sum + logprobError.count, 0),
    },
    greedy: {
      matched: members.reduce((sum, { greedy }) => sum + greedy.matched, 0),
      ties: members.reduce((sum, { greedy }) => sum + greedy.ties, 0),
      all: members.reduce((sum, { greedy }) => sum + greedy.all, 0),
    },
    exactMatch: sumMatches(members),
    passed: members.every(({ passed }) => passed),
  }));
}
