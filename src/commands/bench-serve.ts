/** `prelude bench serve`: what a server on this machine takes and gives under load. */
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { SetupError } from "../errors.ts";
import type { Environment } from "./environment.ts";
import { planArrivals } from "./load-test/arrivals.ts";
import { type Endpoint, type LoadRequest, type Outcome, send, toLoadRequest } from "./load-test/client.ts";
import { type LoadRun, runLoad } from "./load-test/load.ts";
import { type Measurement, type Metrics, type Objectives, summarise } from "./load-test/metrics.ts";
import { Random } from "./load-test/random.ts";
import { failureLines, type LoadDescription, resultJson, resultTable } from "./load-test/report.ts";
import { endpointUrl, findModel, parseBaseUrl, type ServedModel } from "./load-test/target.ts";
import { createWorkload, type Prompt, tokensMax, type WorkloadOptions } from "./load-test/workload.ts";
import { requestProgress } from "./progress.ts";

export interface BenchServeOptions {
  /** Of the server or of its API, with or without `/v1`. */
  url: string;
  /** Null: the first that the server lists. */
  model: string | null;
  endpoint: Endpoint;
  workload: WorkloadOptions;
  /** Requests a second; `Infinity` sends all at once. */
  requestRate: number;
  burstiness: number;
  concurrencyMax: number;
  /** Left out: the server's default. */
  temperature?: number;
  ignoreEos: boolean;
  objectives: Objectives;
  percentages: readonly number[];
  /** File for all that was measured. */
  json?: string;
}

/**
 * Prints a table; after a stop, of what was measured until then. Returns null if the load never began.
 * Throws `SetupError` for a server that is not on this machine, is not there, or refuses a first request.
 */
export async function benchServe(
  options: BenchServeOptions,
  environment: Environment,
): Promise<Metrics | null> {
  const base = parseBaseUrl(options.url);
  if (options.json !== undefined) checkFolder(options.json);
  const stop = new AbortController();
  environment.onStop(() => stop.abort());
  const model = await findModel(base, options.model);
  checkContext(options, model);
  const { prompts, warmups } = createWorkload(options.workload);
  const toRequest = (prompt: Prompt) => toLoadRequest(prompt, { ...options, model: model.id });
  const server: Server = { url: endpointUrl(base, options.endpoint), signal: stop.signal, environment };

  await warmUp(warmups.map(toRequest), server);
  if (stop.signal.aborted) return null;
  environment.report(describeTraffic(options, model));
  const { requests, durationMs } = await load(prompts.map(toRequest), options, server);
  const measurements = requests.map(({ arrivalMs, result: outcome }) => ({
    outcome,
    queueMs: outcome.sentMs - arrivalMs,
  }));
  const metrics = summarise(measurements, { ...options, durationMs });
  await printResults({ metrics, measurements, load: describeLoad(options, model) }, options, environment);
  return metrics;
}

/** Before the load, lest its results are lost after it. */
function checkFolder(file: string): void {
  if (existsSync(dirname(file))) return;
  throw new SetupError(`Cannot write the results: expected a folder for ${file}, got none`);
}

/** Of text the length is known about, so that the server has the last word. */
function checkContext({ workload }: BenchServeOptions, { id, maxModelLen }: ServedModel): void {
  const longest = tokensMax(workload);
  if (maxModelLen === null || workload.format !== "ids" || longest <= maxModelLen) return;
  const expected = `at most ${maxModelLen} tokens of prompt and answer, the context of ${id}`;
  throw new SetupError(`Cannot run a load test: expected ${expected}, got up to ${longest}`);
}

interface Server {
  url: URL;
  signal: AbortSignal;
  environment: Environment;
}

/** One after the other. The first one that fails ends it all: the others would fail alike. */
async function warmUp(requests: readonly LoadRequest[], { url, signal, environment }: Server): Promise<void> {
  for (const request of requests) {
    const outcome = await send(request, { url, now: environment.clock, signal });
    if (outcome.type !== "failed") continue;
    throw new SetupError(
      `Cannot run a load test: expected an answer to a first request, got ${outcome.error}`,
    );
  }
}

async function load(
  requests: readonly LoadRequest[],
  { workload, requestRate, burstiness, concurrencyMax }: BenchServeOptions,
  { url, signal, environment }: Server,
): Promise<LoadRun<Outcome>> {
  const random = new Random(workload.seed, "arrivals");
  const { clock: now, sleep } = environment;
  const progress = requestProgress(requests.length, environment);
  try {
    return await runLoad({
      arrivalsMs: planArrivals(requests.length, { requestRate, burstiness }, random),
      concurrencyMax,
      send: (index) => send(requests[index], { url, now, signal }),
      now,
      sleep,
      signal,
      onDone: ({ type }) => progress.add(type === "failed"),
    });
  } finally {
    progress.end();
  }
}

function describeTraffic(
  { requestRate, burstiness, workload }: BenchServeOptions,
  model: ServedModel,
): string {
  const rate = requestRate === Infinity ? "all at once" : `${requestRate} a second, burstiness ${burstiness}`;
  return `${workload.promptCount} requests to ${model.id}, ${rate}`;
}

function describeLoad(options: BenchServeOptions, model: ServedModel): LoadDescription {
  const { promptCount, seed } = options.workload;
  return { ...options, model: model.id, promptCount, seed };
}

interface Results {
  metrics: Metrics;
  measurements: readonly Measurement[];
  load: LoadDescription;
}

async function printResults(
  { metrics, measurements, load }: Results,
  { json }: BenchServeOptions,
  { write, report, clock }: Environment,
): Promise<void> {
  failureLines(measurements).forEach(report);
  if (measurements.some(({ outcome }) => outcome.type === "completed" && !outcome.isCounted)) {
    report("The server sends no usage: tokens are counted by chunks, of which there may be fewer");
  }
  write(resultTable(metrics, load));
  if (json === undefined) return;
  const result = resultJson(metrics, { load, measurements, endMs: clock() });
  await writeFile(json, `${JSON.stringify(result)}\n`).catch((error: unknown) => {
    throw new SetupError(`Cannot write the results: expected a file at ${json}, got ${String(error)}`);
  });
}
