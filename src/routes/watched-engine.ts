/** The engine as the routes use it: what it is asked is timed, counted, logged where that is wished, and ended in a drain. */
import type { EngineClient, EngineStats, GenerationEvent, GenerationRequest } from "../engine/client.ts";
import { LOG_PROMPT_CHARS_MAX } from "../limits.ts";
import type { Metrics } from "./metrics.ts";
import type { Services } from "./services.ts";

export interface WatchOptions extends Pick<Services, "clock" | "log"> {
  metrics: Metrics;
  /** Ends everything when it is aborted, with its reason. */
  cutSignal: AbortSignal;
  /** Logs the text of every prompt. */
  logsPrompts: boolean;
}

export class WatchedEngine implements EngineClient {
  readonly #engine: EngineClient;
  readonly #options: WatchOptions;

  constructor(engine: EngineClient, options: WatchOptions) {
    this.#engine = engine;
    this.#options = options;
  }

  get model() {
    return this.#engine.model;
  }

  get text() {
    return this.#engine.text;
  }

  get adapter(): string {
    return this.#engine.adapter;
  }

  get healthy(): boolean {
    return this.#engine.healthy;
  }

  stats(): Promise<EngineStats> {
    return this.#engine.stats();
  }

  close(): Promise<void> {
    return this.#engine.close();
  }

  async *submit(
    request: GenerationRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    if (this.#options.logsPrompts) this.#logPrompt(request);
    const times = new GenerationTimes(request, this.#options);
    const { either, release } = eitherOf(this.#options.cutSignal, signal);
    try {
      for await (const event of this.#engine.submit(request, either)) {
        times.note(event);
        yield event;
      }
    } catch (error) {
      times.hasFailed = true;
      throw error;
    } finally {
      release();
      times.end(signal?.aborted ?? false);
    }
  }

  #logPrompt({ id, promptIds }: GenerationRequest): void {
    const text = this.#engine.text.decode([...promptIds]);
    this.#options.log({ type: "prompt", id, text: text.slice(0, LOG_PROMPT_CHARS_MAX) });
  }
}

interface AnswerTimes {
  firstMs: number;
  lastMs: number;
  tokens: number;
  isFinished: boolean;
}

/** When the tokens of a request's answers came. */
class GenerationTimes {
  readonly #options: WatchOptions;
  readonly #request: GenerationRequest;
  readonly #startMs: number;
  readonly #answers: AnswerTimes[];
  hasFailed = false;

  constructor(request: GenerationRequest, options: WatchOptions) {
    this.#options = options;
    this.#request = request;
    this.#startMs = options.clock();
    this.#answers = Array.from({ length: request.sampling.n ?? 1 }, () => {
      return { firstMs: 0, lastMs: 0, tokens: 0, isFinished: false };
    });
  }

  note(event: GenerationEvent): void {
    if (event.type === "prompt") return;
    const answer = this.#answers[event.choice];
    const nowMs = this.#options.clock();
    if (event.type === "finish") this.#finish(answer, event, nowMs);
    else if (event.tokenIds.length > 0) this.#tokens(answer, event.tokenIds.length, nowMs);
  }

  /** What has not finished was left by its client, or has failed. */
  end(isLeft: boolean): void {
    const { metrics } = this.#options;
    const reason = this.hasFailed && !isLeft ? "error" : "abort";
    for (const { isFinished } of this.#answers) if (!isFinished) metrics.countAnswer(reason);
  }

  #tokens(answer: AnswerTimes, count: number, nowMs: number): void {
    const { firstToken, interToken } = this.#options.metrics;
    if (answer.tokens === 0) {
      answer.firstMs = nowMs;
      firstToken.observe((nowMs - this.#startMs) / 1000);
    } else {
      interToken.observe((nowMs - answer.lastMs) / 1000);
    }
    answer.lastMs = nowMs;
    answer.tokens += count;
  }

  #finish(answer: AnswerTimes, event: Extract<GenerationEvent, { type: "finish" }>, nowMs: number): void {
    const { metrics, log } = this.#options;
    const { reason, promptTokens, completionTokens } = event;
    const { firstMs, lastMs, tokens } = answer;
    answer.isFinished = true;
    metrics.countAnswer(reason);
    metrics.wholeAnswer.observe((nowMs - this.#startMs) / 1000);
    if (tokens > 1) metrics.perToken.observe((lastMs - firstMs) / 1000 / (tokens - 1));
    log({
      type: "answer",
      id: this.#request.id,
      reason,
      promptTokens,
      completionTokens,
      firstTokenMs: tokens > 0 ? firstMs - this.#startMs : null,
      durationMs: nowMs - this.#startMs,
    });
  }
}

/** Aborted with the first of the two; unlike `AbortSignal.any`, it leaves nothing behind on a signal that lives on. */
function eitherOf(lasting: AbortSignal, own?: AbortSignal): { either: AbortSignal; release: () => void } {
  const controller = new AbortController();
  const signals = own ? [lasting, own] : [lasting];
  const abort = (event: Event) => controller.abort((event.target as AbortSignal).reason);
  for (const signal of signals) {
    if (signal.aborted) controller.abort(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
  }
  const release = () => signals.forEach((signal) => signal.removeEventListener("abort", abort));
  return { either: controller.signal, release };
}
