/**
 * What a load measured, by vLLM's definitions (calculate_metrics in vllm/benchmarks/serve.py). Pure functions.
 * A statistic of nothing is null, where vLLM says 0.
 */
import type { Outcome } from "./client.ts";

export type Completed = Extract<Outcome, { type: "completed" }>;

export interface Measurement {
  outcome: Outcome;
  /** Milliseconds that the request waited in the client for --max-concurrency. */
  queueMs: number;
}

export interface Statistic {
  mean: number;
  median: number;
  /** Of the population, as numpy's default. */
  standardDeviation: number;
  /** By percentage, in the order asked for. */
  percentiles: [percentage: number, value: number][];
}

export interface Metrics {
  completed: number;
  failed: number;
  cancelled: number;
  durationSeconds: number;
  inputTokens: number;
  outputTokens: number;
  requestsPerSecond: number;
  /** Requests a second that met every objective; null if there were none to meet. */
  goodRequestsPerSecond: number | null;
  outputTokensPerSecond: number;
  totalTokensPerSecond: number;
  /** Most chunks in any second, counted from the first request. */
  outputTokensPerSecondMax: number;
  concurrentRequestsMax: number;
  ttftMs: Statistic | null;
  /** Time per output token after the first, one value a request with at least two tokens. */
  tpotMs: Statistic | null;
  /** Gaps between chunks, of all requests together. */
  itlMs: Statistic | null;
  e2elMs: Statistic | null;
  queueMs: Statistic | null;
}

/** Milliseconds that a request may take at most to count as good. */
export interface Objectives {
  ttft?: number;
  tpot?: number;
  e2el?: number;
}

export interface MetricsOptions {
  durationMs: number;
  objectives: Objectives;
  /** From 0 to 100. */
  percentages: readonly number[];
}

export function summarise(measurements: readonly Measurement[], options: MetricsOptions): Metrics {
  const { durationMs, objectives, percentages } = options;
  const done = measurements.map(({ outcome }) => outcome).filter((outcome) => outcome.type === "completed");
  const ofType = (type: Outcome["type"]) => measurements.filter(({ outcome }) => outcome.type === type);
  const perSecond = (count: number) => (durationMs > 0 ? (1000 * count) / durationMs : 0);
  const statistic = (values: readonly number[]) => describeValues(values, percentages);
  const inputTokens = sum(done.map(({ promptTokens }) => promptTokens));
  const outputTokens = sum(done.map((request) => request.outputTokens));
  const hasObjectives = Object.keys(objectives).length > 0;
  return {
    completed: done.length,
    failed: ofType("failed").length,
    cancelled: ofType("cancelled").length,
    durationSeconds: durationMs / 1000,
    inputTokens,
    outputTokens,
    requestsPerSecond: perSecond(done.length),
    goodRequestsPerSecond: hasObjectives
      ? perSecond(done.filter((request) => isGood(request, objectives)).length)
      : null,
    outputTokensPerSecond: perSecond(outputTokens),
    totalTokensPerSecond: perSecond(inputTokens + outputTokens),
    outputTokensPerSecondMax: chunksPerSecondMax(done),
    concurrentRequestsMax: concurrencyMax(done),
    ttftMs: statistic(done.map(({ ttftMs }) => ttftMs)),
    tpotMs: statistic(done.map(tpotMs).filter((value) => value !== null)),
    itlMs: statistic(done.flatMap(({ itlMs }) => itlMs)),
    e2elMs: statistic(done.map(({ latencyMs }) => latencyMs)),
    queueMs: statistic(ofType("completed").map(({ queueMs }) => queueMs)),
  };
}

/** Null for an answer of one token, which has no token after the first. */
export function tpotMs({ latencyMs, ttftMs, outputTokens }: Completed): number | null {
  return outputTokens > 1 ? (latencyMs - ttftMs) / (outputTokens - 1) : null;
}

/** An answer of one token meets any objective for the time per further token. */
function isGood(request: Completed, { ttft, tpot, e2el }: Objectives): boolean {
  return (
    request.ttftMs <= (ttft ?? Infinity) &&
    (tpotMs(request) ?? 0) <= (tpot ?? Infinity) &&
    request.latencyMs <= (e2el ?? Infinity)
  );
}

export function describeValues(values: readonly number[], percentages: readonly number[]): Statistic | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const mean = sum(values) / values.length;
  const variance = sum(values.map((value) => (value - mean) ** 2)) / values.length;
  return {
    mean,
    median: percentile(sorted, 50),
    standardDeviation: Math.sqrt(variance),
    percentiles: percentages.map((percentage) => [percentage, percentile(sorted, percentage)]),
  };
}

/** Between the two nearest of the sorted values, linearly, as numpy's default. */
function percentile(sorted: Float64Array, percentage: number): number {
  const position = ((sorted.length - 1) * percentage) / 100;
  const below = sorted[Math.floor(position)];
  return below + (sorted[Math.ceil(position)] - below) * (position % 1);
}

function chunksPerSecondMax(requests: readonly Completed[]): number {
  const startMs = firstSentMs(requests);
  const counts = new Map<number, number>();
  for (const { sentMs, ttftMs, itlMs } of requests) {
    let timeMs = sentMs + ttftMs - startMs;
    for (const gapMs of [0, ...itlMs]) {
      timeMs += gapMs;
      const second = Math.floor(timeMs / 1000);
      counts.set(second, (counts.get(second) ?? 0) + 1);
    }
  }
  return greatest(counts.values());
}

/** A request that ends as another begins does not overlap it. */
function concurrencyMax(requests: readonly Completed[]): number {
  const changes = requests.flatMap(({ sentMs, latencyMs }) => [
    { timeMs: sentMs, change: 1 },
    { timeMs: sentMs + latencyMs, change: -1 },
  ]);
  changes.sort((a, b) => a.timeMs - b.timeMs || a.change - b.change);
  let current = 0;
  return greatest(changes.map(({ change }) => (current += change)));
}

export function firstSentMs(requests: Iterable<{ sentMs: number }>): number {
  let first = Infinity;
  for (const { sentMs } of requests) first = Math.min(first, sentMs);
  return first;
}

function greatest(values: Iterable<number>): number {
  let result = 0;
  for (const value of values) result = Math.max(result, value);
  return result;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
