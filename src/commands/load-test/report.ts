/** A load's results: the table that vLLM prints, and JSON with the names that vLLM gives. */
import type { Completed, Measurement, Metrics, Statistic } from "./metrics.ts";

export interface LoadDescription {
  model: string;
  endpoint: string;
  promptCount: number;
  requestRate: number;
  burstiness: number;
  concurrencyMax: number;
  seed: number;
}

const lineChars = 50;
const labelChars = 40;

/** Failures shown with their reason; the rest are counted. */
const failuresShownMax = 10;

/** The table, with a newline at its end. */
export function resultTable(metrics: Metrics, load: LoadDescription): string {
  const { concurrencyMax, requestRate, promptCount } = load;
  const { cancelled, completed, failed, queueMs, goodRequestsPerSecond } = metrics;
  const unsent = promptCount - completed - failed - cancelled;
  const lines = [
    title(" Serving Benchmark Result ", "="),
    row("Successful requests:", completed),
    row("Failed requests:", failed),
    ...(cancelled + unsent > 0 ? [row("Cancelled or not sent:", cancelled + unsent)] : []),
    ...(concurrencyMax < Infinity ? [row("Maximum request concurrency:", concurrencyMax)] : []),
    ...(requestRate < Infinity ? [row("Request rate configured (RPS):", requestRate.toFixed(2))] : []),
    row("Benchmark duration (s):", metrics.durationSeconds.toFixed(2)),
    row("Total input tokens:", metrics.inputTokens),
    row("Total generated tokens:", metrics.outputTokens),
    row("Request throughput (req/s):", metrics.requestsPerSecond.toFixed(2)),
    ...(goodRequestsPerSecond === null
      ? []
      : [row("Request goodput (req/s):", goodRequestsPerSecond.toFixed(2))]),
    row("Output token throughput (tok/s):", metrics.outputTokensPerSecond.toFixed(2)),
    row("Peak output token throughput (tok/s):", metrics.outputTokensPerSecondMax.toFixed(2)),
    row("Peak concurrent requests:", metrics.concurrentRequestsMax.toFixed(2)),
    row("Total token throughput (tok/s):", metrics.totalTokensPerSecond.toFixed(2)),
    ...statisticRows("Time to First Token", "TTFT", metrics.ttftMs),
    ...statisticRows("Time per Output Token (excl. 1st token)", "TPOT", metrics.tpotMs),
    ...statisticRows("Inter-token Latency", "ITL", metrics.itlMs),
    ...statisticRows("End-to-end Latency", "E2EL", metrics.e2elMs),
    ...(concurrencyMax < Infinity ? statisticRows("Client-side Queueing", "Client Queue Time", queueMs) : []),
    "=".repeat(lineChars),
  ];
  return `${lines.join("\n")}\n`;
}

/** A section; without any value only its title with dashes in place of numbers. */
function statisticRows(heading: string, name: string, statistic: Statistic | null): string[] {
  const { mean, median, percentiles = [] } = statistic ?? {};
  return [
    title(heading, "-"),
    row(`Mean ${name} (ms):`, mean?.toFixed(2) ?? "-"),
    row(`Median ${name} (ms):`, median?.toFixed(2) ?? "-"),
    ...percentiles.map(([percentage, value]) => row(`P${percentage} ${name} (ms):`, value.toFixed(2))),
  ];
}

function row(label: string, value: number | string): string {
  return `${label.padEnd(labelChars)} ${value}`;
}

function title(text: string, filler: string): string {
  const left = Math.floor((lineChars - text.length) / 2);
  return text.padStart(text.length + left, filler).padEnd(lineChars, filler);
}

/** What went wrong: the first few failures, and how many there were of which kind. */
export function failureLines(measurements: readonly Measurement[]): string[] {
  const errors = measurements.flatMap(({ outcome }) => (outcome.type === "failed" ? [outcome.error] : []));
  const counts = [...Map.groupBy(errors, (error) => error)];
  const shown = counts.slice(0, failuresShownMax).map(([error, { length }]) => `  ${length} x ${error}`);
  const rest = counts.length > shown.length ? [`  and ${counts.length - shown.length} other errors`] : [];
  return errors.length > 0 ? [`${errors.length} requests failed:`, ...shown, ...rest] : [];
}

export interface JsonOptions {
  load: LoadDescription;
  measurements: readonly Measurement[];
  /** When the load ended, in milliseconds since the epoch. */
  endMs: number;
}

/** Everything measured, with vLLM's names and units: seconds, but milliseconds where a name says so. */
export function resultJson(metrics: Metrics, { load, measurements, endMs }: JsonOptions): object {
  return {
    date: new Date(endMs).toISOString(),
    model_id: load.model,
    endpoint: load.endpoint,
    num_prompts: load.promptCount,
    request_rate: load.requestRate === Infinity ? "inf" : load.requestRate,
    burstiness: load.burstiness === Infinity ? "inf" : load.burstiness,
    max_concurrency: load.concurrencyMax === Infinity ? null : load.concurrencyMax,
    seed: load.seed,
    duration: metrics.durationSeconds,
    completed: metrics.completed,
    failed: metrics.failed,
    cancelled: metrics.cancelled,
    total_input_tokens: metrics.inputTokens,
    total_output_tokens: metrics.outputTokens,
    request_throughput: metrics.requestsPerSecond,
    request_goodput: metrics.goodRequestsPerSecond,
    output_throughput: metrics.outputTokensPerSecond,
    total_token_throughput: metrics.totalTokensPerSecond,
    max_output_tokens_per_s: metrics.outputTokensPerSecondMax,
    max_concurrent_requests: metrics.concurrentRequestsMax,
    ...statisticFields("ttft", metrics.ttftMs),
    ...statisticFields("tpot", metrics.tpotMs),
    ...statisticFields("itl", metrics.itlMs),
    ...statisticFields("e2el", metrics.e2elMs),
    ...statisticFields("client_queue_time", metrics.queueMs),
    ...requestFields(measurements),
  };
}

function statisticFields(name: string, statistic: Statistic | null): object {
  const { mean = null, median = null, standardDeviation = null, percentiles = [] } = statistic ?? {};
  return {
    [`mean_${name}_ms`]: mean,
    [`median_${name}_ms`]: median,
    [`std_${name}_ms`]: standardDeviation,
    ...Object.fromEntries(percentiles.map(([percentage, value]) => [`p${percentage}_${name}_ms`, value])),
  };
}

/** Arrays with one element a request, in order of arrival. */
function requestFields(measurements: readonly Measurement[]): object {
  const ofEach = <Value>(read: (measurement: Measurement) => Value) => measurements.map(read);
  const ofCompleted = <Value>(read: (outcome: Completed) => Value, otherwise: Value) =>
    ofEach(({ outcome }) => (outcome.type === "completed" ? read(outcome) : otherwise));
  return {
    input_lens: ofCompleted(({ promptTokens }) => promptTokens, 0),
    output_lens: ofCompleted(({ outputTokens }) => outputTokens, 0),
    ttfts: ofCompleted(({ ttftMs }) => ttftMs / 1000, 0),
    itls: ofCompleted<number[]>(({ itlMs }) => itlMs.map((gapMs) => gapMs / 1000), []),
    latencies: ofCompleted(({ latencyMs }) => latencyMs / 1000, 0),
    start_times: ofEach(({ outcome }) => outcome.sentMs / 1000),
    queue_times: ofEach(({ queueMs }) => queueMs / 1000),
    errors: ofEach(({ outcome }) => (outcome.type === "failed" ? outcome.error : "")),
  };
}
