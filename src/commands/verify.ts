/** `prelude verify`: does this checkpoint, on this device, give the outputs its folder says it must? */
import { type EngineOptions, loadEngine, type LoadedEngine, quantizationOf } from "../engine/load-engine.ts";
import { readVerifyCases, type VerifyCase } from "../engine/verify/cases.ts";
import type { CaseResult } from "../engine/verify/judge.ts";
import { lossyTolerance } from "../engine/verify/lossy.ts";
import { type Summary, summarize } from "../engine/verify/summary.ts";
import { exact, type Tolerance, toleranceOf } from "../engine/verify/tolerance.ts";
import { verify } from "../engine/verify/verify.ts";
import { mayUseMatrixUnits } from "../engine/layers/fusion.ts";
import { readModelConfig } from "../engine/weights/config.ts";
import type { Environment } from "./environment.ts";
import { loadProgress } from "./progress.ts";
import { profileTable } from "./start-engine.ts";

export interface VerifyFolderOptions {
  engine: EngineOptions;
  json?: boolean;
  verbose?: boolean;
}

/** More cases than this are summed up by group. */
const casesListedMax = 40;
const sequencesMax = 32;
const stepTokensMax = 1024;

/** Prints a line a case (or group) and a summary; true if all passed. */
export async function verifyFolder(options: VerifyFolderOptions, environment: Environment): Promise<boolean> {
  const { modelDir } = options.engine;
  const config = await readModelConfig(modelDir);
  const cases = await readVerifyCases(modelDir, config.hrm?.prefixLm ?? false);
  const engine = engineFor(options.engine, cases);
  const started = environment.clock();
  const run = await runLikeReference({ engine, cases, environment });
  const seconds = (environment.clock() - started) / 1000;
  const { results, adapter, note, tolerance } = run;
  const summary = summarize(results, tolerance);
  if (options.json) {
    const found = { model: modelDir, adapter, ...summary, tolerance, note, cases: results };
    environment.write(`${JSON.stringify(found)}\n`);
  } else {
    const lines = [report(results, { verbose: options.verbose ?? false, seconds })];
    if (tolerance.greedyShare !== undefined) lines.push(...describeLossy(summary, tolerance, results));
    if (note) lines.push(`Note: ${note}`);
    environment.write(`${lines.join("\n")}\n`);
  }
  return summary.passed;
}

interface RunOptions {
  engine: EngineOptions;
  cases: readonly VerifyCase[];
  environment: Environment;
}

interface RunResult {
  results: CaseResult[];
  adapter: string;
  tolerance: Tolerance;
  note?: string;
}

/**
 * Runs as served, with float32 rotary frequencies. Logits of a reference may come from a model that was cast to
 * bfloat16 and back, which rounds its frequencies too (decision 1): unless they are met to float32's own precision, they
 * are compared once more with such frequencies, and the closer of the two counts and is named.
 */
async function runLikeReference(options: RunOptions): Promise<RunResult> {
  const served = await runOnce(options);
  const isReference = options.cases.some(({ promptLogits }) => promptLogits);
  if (options.engine.rotaryFrequencies === "bf16") return served;
  if (!isReference || worstRms(served) <= exact.relativeRms) return served;
  const rounded = await runOnce({ ...options, engine: { ...options.engine, rotaryFrequencies: "bf16" } });
  if (worstRms(rounded) > worstRms(served)) return served;
  const close = served.results.filter((result) => result.passed).length;
  const note =
    "this reference was made with rotary frequencies rounded to bfloat16, and is closer to the same rounding; " +
    `with float32 frequencies, as the engine serves, ${close} of ${served.results.length} cases are within tolerance`;
  return { ...rounded, note };
}

function worstRms({ results }: RunResult): number {
  return Math.max(0, ...results.map(({ relativeRms }) => relativeRms ?? 0));
}

async function runOnce({ engine, cases, environment }: RunOptions): Promise<RunResult> {
  const { onProgress, end } = loadProgress(environment);
  const loaded = await loadEngine(engine, onProgress).finally(end);
  const { gpu, profiler } = loaded;
  try {
    const tolerance = toleranceFor(engine, loaded);
    const results = await runCases(loaded, { cases, tolerance, environment });
    if (profiler) environment.report(profileTable(await profiler.report()));
    return { results, adapter: gpu.describe(), tolerance };
  } finally {
    gpu.close();
  }
}

/** Just enough context and rows for these cases. */
function engineFor(engine: EngineOptions, cases: readonly VerifyCase[]): EngineOptions {
  const longest = Math.max(...cases.map(({ promptIds, greedyIds }) => promptIds.length + greedyIds.length));
  const longestPrompt = Math.max(...cases.map(({ promptIds }) => promptIds.length));
  return {
    ...engine,
    maxModelLen: engine.maxModelLen ?? longest,
    maxSequences: sequencesMax,
    maxBatchedTokens: Math.max(longestPrompt, stepTokensMax),
    maxRows: Math.max(longestPrompt, sequencesMax),
  };
}

/** Formats that round more than the checkpoint's own do. */
function toleranceFor(engine: EngineOptions, { kvSpecs, gpu }: LoadedEngine): Tolerance {
  const int8Kv = kvSpecs.find((spec) => spec.dtype === "i8");
  // Matrix units round what goes into a product, unless its weights are in a format that they do not take.
  const takesMatrixUnits = !["f32", "bf16"].includes(engine.dtype) && mayUseMatrixUnits(gpu.traits);
  const activations = takesMatrixUnits ? ["f16"] : [];
  return lossyTolerance(toleranceOf([engine.dtype, ...kvSpecs.map((spec) => spec.dtype), ...activations]), {
    quantization: quantizationOf(engine),
    int8KvHeadDim: int8Kv?.headDim ?? null,
    passes: kvSpecs.length,
  });
}

interface RunCasesOptions {
  cases: readonly VerifyCase[];
  tolerance: Tolerance;
  environment: Environment;
}

async function runCases(
  { runner, config, blocks, policy }: LoadedEngine,
  { cases, tolerance, environment }: RunCasesOptions,
) {
  let done = 0;
  return verify(cases, {
    runner,
    blockCount: Math.min(...blocks.blockCounts),
    groupCount: policy.groups.length,
    vocabSize: config.vocabSize,
    tolerance,
    onResult: () => {
      done++;
      if (done % sequencesMax === 0 || done === cases.length)
        environment.report(`Checked ${done} of ${cases.length}`);
    },
  });
}

function report(
  results: readonly CaseResult[],
  { verbose, seconds }: { verbose: boolean; seconds: number },
): string {
  const isLong = results.length > casesListedMax && !verbose;
  const rows = isLong ? [...sumUp(results), ...results.filter(({ passed }) => !passed)] : results;
  const failed = results.filter(({ passed }) => !passed).length;
  return [
    "case                            rel. RMS    worst      greedy",
    ...rows.map(line),
    `${results.length - failed} passed, ${failed} failed in ${seconds.toFixed(1)} s`,
  ].join("\n");
}

function describeLossy(
  { passed, answers, greedy, logprobError }: Summary,
  { relativeRms, greedyShare = 0 }: Tolerance,
  results: readonly CaseResult[],
): string[] {
  const share = (part: number, all: number) => `${((100 * part) / all).toFixed(1)} %`;
  const lines: string[] = [];
  if (answers.all > 0) {
    const ids = `greedy ids ${share(greedy.matched, greedy.all)} (${100 * greedyShare} % pass)`;
    const answered = `answers reproduced: ${answers.exact} of ${answers.all} (${share(answers.exact, answers.all)})`;
    const error =
      logprobError === null ? "" : `; log-probabilities off by ${logprobError.toFixed(4)} on average`;
    lines.push(`Lossy formats: ${answered}; ${ids}${error}`);
  }
  if (answers.all < results.length)
    lines.push(`Lossy formats: rel. RMS up to ${relativeRms.toExponential(1)} passes`);
  lines.push(passed ? "All in all passed" : "All in all FAILED");
  return lines;
}

function line({ name, relativeRms, worst, greedy, passed }: CaseResult): string {
  const ties = greedy.ties > 0 ? ` (${greedy.ties} near ties)` : "";
  return [
    name.slice(0, 30).padEnd(30),
    (relativeRms?.toExponential(1) ?? "-").padStart(9),
    worst.toExponential(1).padStart(8),
    `${greedy.matched}/${greedy.all}`.padStart(11),
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
    passed: members.every(({ passed }) => passed),
  }));
}
