/** `prelude verify`: does this checkpoint, on this device, give the outputs its folder says it must? */
import { type EngineOptions, loadEngine, type LoadedEngine, quantizationOf } from "../engine/load-engine.ts";
import { readVerifyCases, type VerifyCase } from "../engine/verify/cases.ts";
import type { CaseResult } from "../engine/verify/judge.ts";
import { lossyTolerance } from "../engine/verify/lossy.ts";
import { summarize } from "../engine/verify/summary.ts";
import { exact, type Tolerance, toleranceOf } from "../engine/verify/tolerance.ts";
import { type AnswerOptions, verify } from "../engine/verify/verify.ts";
import { mayUseMatrixUnits } from "../engine/layers/fusion.ts";
import { loadTokenizer } from "../engine/text/tokenizer.ts";
import { type ModelConfig, readModelConfig } from "../engine/weights/config.ts";
import type { Environment } from "./environment.ts";
import { loadProgress } from "./progress.ts";
import { profileTable } from "./start-engine.ts";
import { verifyReport } from "./verify-report.ts";

export interface VerifyFolderOptions {
  engine: EngineOptions;
  json?: boolean;
  verbose?: boolean;
}

const sequencesMax = 32;
const stepTokensMax = 1024;
/** An answer that the engine gives itself may be so many times as long as the longest golden one. */
const ownAnswerLength = 2;

/** Prints a line a case (or group) and a summary; true if all passed. */
export async function verifyFolder(options: VerifyFolderOptions, environment: Environment): Promise<boolean> {
  const { modelDir } = options.engine;
  const config = await readModelConfig(modelDir);
  const cases = await readVerifyCases(modelDir, config.hrm?.prefixLm ?? false);
  const engine = engineFor(options.engine, cases, config);
  const started = environment.clock();
  const run = await runLikeReference({ engine, cases, environment });
  const seconds = (environment.clock() - started) / 1000;
  const { results, adapter, note, tolerance } = run;
  const summary = summarize(results, tolerance);
  if (options.json) {
    const found = { model: modelDir, adapter, ...summary, tolerance, note, cases: results };
    environment.write(`${JSON.stringify(found)}\n`);
  } else {
    const lines = verifyReport(results, { verbose: options.verbose ?? false, seconds, summary, tolerance });
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
    const answers = answerOptions(cases, loaded, engine.modelDir);
    const results = await runCases(loaded, { cases, tolerance, answers, environment });
    if (profiler) environment.report(profileTable(await profiler.report()));
    return { results, adapter: gpu.describe(), tolerance };
  } finally {
    gpu.close();
  }
}

/** Just enough context and rows for these cases. */
function engineFor(
  engine: EngineOptions,
  cases: readonly VerifyCase[],
  { maxPositions }: ModelConfig,
): EngineOptions {
  const promptTokens = longestPrompt(cases);
  const answerTokens = Math.max(...cases.map(({ greedyIds }) => greedyIds.length));
  const room = cases.some(({ right }) => right) ? ownAnswerLength * answerTokens : answerTokens;
  return {
    ...engine,
    maxModelLen: engine.maxModelLen ?? Math.min(promptTokens + room, maxPositions),
    maxSequences: sequencesMax,
    maxBatchedTokens: Math.max(promptTokens, stepTokensMax),
    maxRows: Math.max(promptTokens, sequencesMax),
  };
}

function longestPrompt(cases: readonly VerifyCase[]): number {
  return Math.max(...cases.map(({ promptIds }) => promptIds.length));
}

/** Undefined where no right answer is known. */
function answerOptions(
  cases: readonly VerifyCase[],
  { config, maxModelLen }: LoadedEngine,
  modelDir: string,
): AnswerOptions | undefined {
  if (!cases.some(({ right }) => right)) return undefined;
  const tokenizer = loadTokenizer(modelDir);
  return {
    stopIds: config.eosTokenIds,
    decode: (ids) => tokenizer.decode(ids),
    tokensMax: maxModelLen - longestPrompt(cases),
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
  answers: AnswerOptions | undefined;
  environment: Environment;
}

async function runCases(
  { runner, config, blocks, policy }: LoadedEngine,
  { cases, tolerance, answers, environment }: RunCasesOptions,
) {
  let done = 0;
  return verify(cases, {
    runner,
    blockCount: Math.min(...blocks.blockCounts),
    groupCount: policy.groups.length,
    vocabSize: config.vocabSize,
    tolerance,
    answers,
    onResult: () => {
      done++;
      if (done % sequencesMax === 0 || done === cases.length)
        environment.report(`Checked ${done} of ${cases.length}`);
    },
  });
}
