/**
 * The engine behind a Worker, as an `EngineClient`: sends ids across, turns ids that come back into text.
 * Owns the queue limit and the life of the Worker; knows no HTTP.
 */
import {
  QUEUE_RETRY_SECONDS,
  QUEUED_REQUESTS_MAX,
  QUEUED_TOKENS_MAX,
  READER_EVENTS_MAX,
  SLOW_READER_MS_MAX,
} from "../limits.ts";
import { admit, type AdmittedRequest } from "./admission.ts";
import { AnswerText } from "./answer-text.ts";
import type { EngineClient, GenerationEvent, GenerationRequest, ModelCard } from "./client.ts";
import {
  CheckpointError,
  ContextLengthError,
  EngineDeadError,
  InvalidRequestError,
  QueueFullError,
  SetupError,
  SlowReaderError,
  DeadlineError,
} from "./errors.ts";
import { EventQueue } from "./event-queue.ts";
import type { EngineOptions, OnLoadProgress } from "./load-engine.ts";
import type { ErrorMessage, FromEngine, ReadyInfo, ToEngine } from "./protocol.ts";
import type { EngineStats } from "./stats.ts";
import { startRuntimeTimer, type StartTimer } from "./timer.ts";
import { vocabularyOf } from "./grammar/vocabulary.ts";
import { createTextCodec, type ModelTextCodec } from "./text/codec.ts";
import { readModelConfig, type ModelConfig } from "./weights/config.ts";
import type { KernelProfile } from "../gpu/profile.ts";

export interface StartOptions {
  engine: EngineOptions;
  /** The name requests use. */
  modelName: string;
  /** Seconds since the epoch. */
  created: number;
  onProgress?: OnLoadProgress;
  /** Makes the thread; for tests. */
  createWorker?: () => Worker;
  /** For tests; the runtime's timers by default. */
  startTimer?: StartTimer;
}

type Answer = Extract<FromEngine, { type: "prompt" | "tokens" | "finish" }>;

/** A request that is under way. */
interface Entry {
  queue: EventQueue<Answer>;
  promptTokens: number;
  /** While its reader is slow. */
  stopTimer?: () => void;
}

interface ClientParts {
  card: ModelCard;
  text: ModelTextCodec;
  adapter: string;
  eosTokenIds: readonly number[];
  startTimer: StartTimer;
}

export class WorkerEngineClient implements EngineClient {
  readonly model: ModelCard;
  readonly text: ModelTextCodec;
  readonly adapter: string;
  readonly #eosTokenIds: readonly number[];
  readonly #worker: Worker;
  readonly #entries = new Map<string, Entry>();
  readonly #startTimer: StartTimer;
  #hasSentVocabulary = false;
  #death: EngineDeadError | null = null;
  /** False once the thread has failed: it answers no more. */
  #isThreadRunning = true;
  #onProfile: ((rows: KernelProfile[]) => void) | undefined;
  /** Who waits for numbers, in order. */
  readonly #statsQueue: PromiseWithResolvers<EngineStats>[] = [];
  #onClosed: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** Loads the model in a new Worker. Throws `SetupError`, `CheckpointError`, or whatever loading ran into. */
  static async start(options: StartOptions): Promise<WorkerEngineClient> {
    const { engine, modelName, created, onProgress, createWorker = engineWorker } = options;
    const { startTimer = startRuntimeTimer } = options;
    const config = await readModelConfig(engine.modelDir);
    const text = createTextCodec(engine.modelDir, config.architecture);
    const worker = createWorker();
    try {
      const info = await untilReady(worker, engine, onProgress);
      const card = modelCard({ modelName, created, config, info });
      return new WorkerEngineClient(worker, {
        card,
        text,
        adapter: info.adapter,
        eosTokenIds: config.eosTokenIds,
        startTimer,
      });
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  private constructor(worker: Worker, { card, text, adapter, eosTokenIds, startTimer }: ClientParts) {
    this.model = card;
    this.text = text;
    this.adapter = adapter;
    this.#eosTokenIds = eosTokenIds;
    this.#startTimer = startTimer;
    this.#worker = worker;
    worker.onmessage = (event: MessageEvent<FromEngine>) => this.#receive(event.data);
    worker.onerror = (event) => {
      event.preventDefault(); // Deno would end the process
      this.#isThreadRunning = false;
      this.#die(`its thread failed: ${event.message}`);
      this.#onClosed?.();
    };
  }

  get healthy(): boolean {
    return this.#death === null;
  }

  async *submit(
    request: GenerationRequest,
    signal?: AbortSignal,
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    const admitted = this.#admit(request);
    signal?.throwIfAborted();
    const queue = this.#openQueue(request.id);
    const onAbort = () => this.#drop(request.id, signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#entries.set(request.id, { queue, promptTokens: request.promptIds.length });
    if (admitted.grammarSource) this.#sendVocabulary();
    this.#post({ type: "submit", request: admitted });
    let finished = 0;
    try {
      for await (const event of this.#textEvents(admitted, queue)) {
        if (event.type === "finish") finished++;
        yield event;
      }
    } finally {
      signal?.removeEventListener("abort", onAbort);
      if (finished < (request.sampling.n ?? 1)) this.#drop(request.id, null);
      else this.#forget(request.id);
    }
  }

  /** The engine needs no vocabulary but for grammars. */
  #sendVocabulary(): void {
    if (this.#hasSentVocabulary) return;
    this.#hasSentVocabulary = true;
    this.#post({ type: "vocabulary", vocabulary: vocabularyOf(this.text.tokenizer) });
  }

  /** A queue whose reader, when it falls behind, pauses its request only, and is dropped if it does not come back. */
  #openQueue(id: string): EventQueue<Answer> {
    return new EventQueue({
      itemsMax: READER_EVENTS_MAX,
      onFull: () => {
        this.#post({ type: "pause", id });
        this.#watch(id);
      },
      onDrained: () => {
        this.#entries.get(id)?.stopTimer?.();
        this.#post({ type: "resume", id });
      },
    });
  }

  /** Drops the request when its reader takes nothing from now on. */
  #watch(id: string): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    const { takenCount } = entry.queue;
    entry.stopTimer = this.#startTimer(SLOW_READER_MS_MAX, () => {
      if (entry.queue.takenCount > takenCount) this.#watch(id);
      else this.#drop(id, slowReader(id));
    });
  }

  /** Ends a request from this side at once, whether its reader ever comes back or not. */
  #drop(id: string, reason: unknown): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    this.#forget(id);
    this.#post({ type: "cancel", id });
    entry.queue.fail(reason);
  }

  #forget(id: string): void {
    this.#entries.get(id)?.stopTimer?.();
    this.#entries.delete(id);
  }

  /** Kernel times since the start, if the engine was started with `profile`. */
  profile(): Promise<KernelProfile[]> {
    return new Promise((resolve) => {
      this.#onProfile = resolve;
      this.#post({ type: "profile" });
    });
  }

  stats(): Promise<EngineStats> {
    if (this.#death) return Promise.reject(this.#death);
    const asked = Promise.withResolvers<EngineStats>();
    this.#statsQueue.push(asked);
    this.#post({ type: "stats" });
    return asked.promise;
  }

  /** Ends the engine, when its step under way is done: of a dead one too, whose thread may still be at work. */
  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  async #end(): Promise<void> {
    this.#die("it was closed");
    if (this.#isThreadRunning) {
      await new Promise<void>((resolve) => {
        this.#onClosed = resolve;
        this.#post({ type: "close" });
      });
    }
    this.#worker.terminate();
  }

  /** Ids to text, stop strings applied. A stop string ends an answer here; leaving the loop cancels the rest. */
  async *#textEvents(
    request: GenerationRequest,
    events: AsyncIterable<Answer>,
  ): AsyncGenerator<GenerationEvent> {
    const { n = 1, showSpecialTokens = false } = request.sampling;
    const answers = Array.from({ length: n }, (_, choice) => {
      const skipSpecialTokens = !showSpecialTokens;
      const detokenizer = this.text.newDetokenizer(request.promptIds, { skipSpecialTokens });
      return new AnswerText(choice, detokenizer, { request, eosTokenIds: this.#eosTokenIds });
    });
    for await (const event of events) {
      if (event.type === "prompt") {
        for (const answer of answers) answer.cachedTokens = event.cachedTokens;
        yield toPromptEvent(event);
        continue;
      }
      const answer = answers[event.choice];
      if (answer.isFinished) continue;
      yield* event.type === "tokens" ? answer.tokens(event) : answer.end(event.reason);
      if (event.type === "tokens" && answer.isFinished) {
        this.#post({ type: "cancel", id: request.id, choice: event.choice });
      }
      if (answers.every(({ isFinished }) => isFinished)) return;
    }
  }

  /** The request as the engine runs it, its token limit cut to the context. Throws if it can never run. */
  #admit(request: GenerationRequest): AdmittedRequest {
    if (this.#death) throw this.#death;
    const entries = [...this.#entries.values()];
    const tokens = entries.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
    if (entries.length >= QUEUED_REQUESTS_MAX) throw queueFull(`${QUEUED_REQUESTS_MAX} requests`);
    if (tokens + request.promptIds.length > QUEUED_TOKENS_MAX && entries.length > 0) {
      throw queueFull(`${QUEUED_TOKENS_MAX} prompt tokens`);
    }
    return admit(request, this.model);
  }

  #receive(message: FromEngine): void {
    switch (message.type) {
      case "prompt":
      case "tokens":
      case "finish":
        this.#entries.get(message.id)?.queue.push(message);
        return;
      case "failed":
        this.#entries.get(message.id)?.queue.fail(restoreError(message.error));
        this.#forget(message.id);
        return;
      case "dead":
        this.#die(message.error.message);
        return;
      case "profile":
        this.#onProfile?.(message.rows);
        return;
      case "stats":
        this.#statsQueue.shift()?.resolve(message.stats);
        return;
      case "closed":
        this.#onClosed?.();
        return;
      case "progress":
      case "ready":
        return;
    }
  }

  #die(why: string): void {
    this.#death ??= new EngineDeadError(`Cannot generate: the engine has ended (${why})`);
    for (const id of [...this.#entries.keys()]) this.#drop(id, this.#death);
    for (const { reject } of this.#statsQueue.splice(0)) reject(this.#death);
  }

  #post(message: ToEngine): void {
    this.#worker.postMessage(message);
  }
}

function toPromptEvent(event: Extract<Answer, { type: "prompt" }>): GenerationEvent {
  const { type, cachedTokens, logprobs, meanState } = event;
  return { type, cachedTokens, ...(logprobs && { logprobs }), ...(meanState && { meanState }) };
}

function queueFull(most: string): QueueFullError {
  return new QueueFullError(
    `Cannot queue the request: at most ${most} may be under way, and that many are`,
    QUEUE_RETRY_SECONDS,
  );
}

function slowReader(id: string): SlowReaderError {
  return new SlowReaderError(
    `Cannot go on with request ${id}: expected its reader to take what is there, got none taken for ${SLOW_READER_MS_MAX / 1000} s`,
  );
}

function engineWorker(): Worker {
  return new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
}

function untilReady(worker: Worker, options: EngineOptions, onProgress?: OnLoadProgress): Promise<ReadyInfo> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<FromEngine>) => {
      if (data.type === "progress") onProgress?.(data);
      if (data.type === "ready") resolve(data.info);
      if (data.type === "dead") reject(restoreError(data.error));
    };
    worker.onerror = (event) => {
      event.preventDefault(); // Deno would end the process
      reject(new Error(`Cannot start the engine's thread: ${event.message}`));
    };
    worker.postMessage({ type: "load", options } satisfies ToEngine);
  });
}

interface CardParts {
  modelName: string;
  created: number;
  config: ModelConfig;
  info: ReadyInfo;
}

function modelCard({ modelName, created, config, info }: CardParts): ModelCard {
  const { maxModelLen, isPrefixLm, maxSequences: maxChoices } = info;
  const { vocabSize, hiddenSize, defaultSampling } = config;
  return {
    id: modelName,
    created,
    maxModelLen,
    maxChoices,
    vocabSize,
    hiddenSize,
    isPrefixLm,
    defaultSampling,
  };
}

const errorKinds = {
  CheckpointError,
  ContextLengthError,
  DeadlineError,
  EngineDeadError,
  SetupError,
};

function restoreError({ name, message, param }: ErrorMessage): Error {
  if (name === "InvalidRequestError") return new InvalidRequestError(message, param);
  if (name === "QueueFullError") return new QueueFullError(message, QUEUE_RETRY_SECONDS);
  const Kind = errorKinds[name as keyof typeof errorKinds] as (typeof errorKinds)["SetupError"] | undefined;
  return Kind ? new Kind(message) : Object.assign(new Error(message), { name });
}
