/**
 * `prelude bench engine`: the engine without HTTP and text, on the geometry of any config.json.
 *
 * Each case runs requests of random ids through the real scheduler and step loop; times are those at which ids became
 * known. What a case measures is in `engine-bench/`.
 */
import { appendFileSync } from "node:fs";
import { basename } from "node:path";
import { type EngineOptions, loadEngine } from "../engine/load-engine.ts";
import { type CaseOptions, type CaseResult, engineCases } from "./engine-bench/cases.ts";
import type { Environment } from "./environment.ts";
import { loadProgress } from "./progress.ts";
import { profileTable } from "./start-engine.ts";

export interface BenchEngineOptions {
  engine: EngineOptions;
  cases: CaseOptions;
  json?: boolean;
  /** A file that gets a line of JSON for each result. */
  record?: string;
}

/** Prints a line a result as it comes. */
export async function benchEngine(options: BenchEngineOptions, environment: Environment): Promise<void> {
  const { engine, cases } = options;
  const { onProgress, end } = loadProgress(environment);
  const loaded = await loadEngine(engineFor(engine, cases), onProgress).finally(end);
  try {
    for await (const result of engineCases(loaded, cases, environment)) {
      report(result, { ...options, adapter: loaded.gpu.adapterName }, environment);
    }
    if (loaded.profiler) environment.report(profileTable(await loaded.profiler.report()));
  } finally {
    loaded.gpu.close();
  }
}

/** Room for the largest case; prefixes are computed anew each time. */
function engineFor(engine: EngineOptions, { batches, prompts, load, stall }: CaseOptions): EngineOptions {
  const sequences = Math.max(16, load?.concurrency ?? 0, ...batches);
  return {
    ...engine,
    maxSequences: engine.maxSequences ?? sequences,
    maxBatchedTokens:
      engine.maxBatchedTokens ?? Math.max(2048, sequences, ...prompts, stall ? stall.prompt + 16 : 0),
    prefixCaching: false,
  };
}

function report(
  result: CaseResult,
  { engine, json, record, adapter }: BenchEngineOptions & { adapter: string },
  { write, clock }: Environment,
): void {
  const { modelDir, dtype, kvDtype, quantization } = engine;
  const line = JSON.stringify({
    date: new Date(clock()).toISOString(),
    adapter,
    model: basename(modelDir),
    dtype,
    kvDtype,
    quantization,
    ...result,
  });
  if (record) appendFileSync(record, `${line}\n`);
  const text = `${result.case.padEnd(72)} ${result.value.toFixed(1).padStart(9)} ${result.unit}`;
  write(`${json ? line : text}\n`);
}
