/**
 * `GET /metrics`: Prometheus' text. Names, labels and buckets are vLLM's with another prefix, so that its dashboards fit.
 * What the engine counts is asked for at each scrape; times that a client sees are measured here.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { EngineStats, FinishReason } from "../engine/client.ts";
import { EngineHistogram } from "./engine-histogram.ts";

const firstTokenBuckets = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
  2560,
];
const tokenBuckets = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const requestBuckets = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];

/** Of HTTP methods, those that are counted by name: clients may send any text. */
const methods = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);

export class Metrics {
  readonly #registry = new Registry();
  readonly #running = this.#gauge("num_requests_running", "Sequences that hold KV blocks and make progress.");
  readonly #waiting = this.#gauge("num_requests_waiting", "Sequences that wait to be run.");
  readonly #paused = this.#gauge("num_requests_paused", "Sequences whose reader is slow.");
  readonly #kvUsage = this.#gauge("kv_cache_usage_perc", "Share of KV blocks in use; 1 is all.");
  readonly #preemptions = this.#counter("num_preemptions_total", "Sequences that lost their KV blocks.");
  readonly #grammarLosses = this.#counter(
    "grammar_thread_losses_total",
    "Threads that follow grammars and were ended since they failed or hung.",
  );
  readonly #steps = this.#counter("engine_steps_total", "Steps planned.");
  readonly #prefixQueries = this.#counter(
    "prefix_cache_queries_total",
    "Tokens looked up in the prefix cache.",
  );
  readonly #prefixHits = this.#counter("prefix_cache_hits_total", "Tokens found in the prefix cache.");
  readonly #promptTokens = this.#counter("prompt_tokens_total", "Prompt tokens, cached ones included.");
  readonly #generationTokens = this.#counter("generation_tokens_total", "Tokens generated.");
  readonly #kernelSeconds = this.#counter("kernel_gpu_seconds_total", "GPU time, with --profile.", [
    "kernel",
  ]);
  readonly #kernelCalls = this.#counter("kernel_calls_total", "Dispatches, with --profile.", ["kernel"]);
  readonly #queueTime: EngineHistogram;
  readonly #success = this.#counter("request_success_total", "Answers that ended.", ["finished_reason"]);
  readonly #http = this.#counter("http_requests_total", "HTTP requests.", ["handler", "method", "status"]);
  /** In seconds. */
  readonly firstToken = this.#histogram(
    "time_to_first_token_seconds",
    "From the request.",
    firstTokenBuckets,
  );
  readonly interToken = this.#histogram("inter_token_latency_seconds", "Between tokens.", tokenBuckets);
  readonly perToken = this.#histogram(
    "request_time_per_output_token_seconds",
    "Mean time of an answer's tokens behind the first.",
    tokenBuckets,
  );
  readonly wholeAnswer = this.#histogram(
    "e2e_request_latency_seconds",
    "From the request to an answer's end.",
    requestBuckets,
  );

  constructor() {
    this.#queueTime = new EngineHistogram({
      name: "prelude:request_queue_time_seconds",
      help: "From the request's arrival in the engine to its first step.",
      registers: [this.#registry],
    });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** Counts an answer that has ended: by the model or a limit, by its client, or by a failure. */
  countAnswer(finished_reason: FinishReason | "abort" | "error"): void {
    this.#success.inc({ finished_reason });
  }

  /** `handler` is the route, never the path, of which there is no end. */
  countHttp({ handler, method, status }: { handler: string; method: string; status: number }): void {
    this.#http.inc({ handler, method: methods.has(method) ? method : "other", status });
  }

  /** All metrics as text. Without the engine's numbers, which a dead one has not, those stay as they were. */
  render(modelName: string, stats: EngineStats | null): Promise<string> {
    this.#registry.setDefaultLabels({ model_name: modelName });
    if (stats) this.#take(stats);
    return this.#registry.metrics();
  }

  #take(stats: EngineStats): void {
    this.#running.set(stats.running);
    this.#waiting.set(stats.waiting);
    this.#paused.set(stats.paused);
    this.#kvUsage.set(usedShare(stats));
    setTotal(this.#preemptions, stats.preemptions);
    setTotal(this.#grammarLosses, stats.grammars.threadLosses);
    setTotal(this.#steps, stats.steps);
    setTotal(this.#prefixQueries, stats.prefixCache.queryTokens);
    setTotal(this.#prefixHits, stats.prefixCache.hitTokens);
    setTotal(this.#promptTokens, stats.promptTokens);
    setTotal(this.#generationTokens, stats.generationTokens);
    this.#queueTime.take(stats.queueTimes);
    this.#kernelSeconds.reset();
    this.#kernelCalls.reset();
    for (const { kernel, milliseconds, calls } of stats.kernels ?? []) {
      this.#kernelSeconds.inc({ kernel }, milliseconds / 1000);
      this.#kernelCalls.inc({ kernel }, calls);
    }
  }

  #gauge(name: string, help: string): Gauge {
    return new Gauge({ name: `prelude:${name}`, help, registers: [this.#registry] });
  }

  #counter<Label extends string = never>(
    name: string,
    help: string,
    labelNames: Label[] = [],
  ): Counter<Label> {
    return new Counter({ name: `prelude:${name}`, help, labelNames, registers: [this.#registry] });
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: `prelude:${name}`, help, buckets, registers: [this.#registry] });
  }
}

/** Of the group of layers that is fullest: it is the first to run out. */
function usedShare({ kvBlocks }: EngineStats): number {
  return Math.max(0, ...kvBlocks.map(({ used, total }) => (total === 0 ? 0 : used / total)));
}

function setTotal(counter: Counter, total: number): void {
  counter.reset();
  counter.inc(total);
}
