/**
 * The engine behind a Worker, as an `EngineClient`: sends ids across, turns ids that come back into text.
 * Owns the queue limit and the life of the Worker; knows no HTTP.
 */
import { QUEUED_REQUESTS_MAX, QUEUE_RETRY_SECONDS } from "../limits.ts";
import { admit } from "./admission.ts";
import type { EngineClient, GenerationEvent, GenerationRequest, ModelCard } from "./client.ts";
import {
  CheckpointError,
  ContextLengthError,
  EngineDeadError,
  InvalidRequestError,
  QueueFullError,
  SetupError,
} from "./errors.ts";
import { EventQueue } from "./event-queue.ts";
import type { EngineOptions, OnLoadProgress } from "./load-engine.ts";
import type { ErrorMessage, FromEngine, ReadyInfo, ToEngine } from "./protocol.ts";
import { createTextCodec, type ModelTextCodec } from "./text/codec.ts";
import { StopMatcher } from "./text/stop.ts";
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
}

type Answer = Extract<FromEngine, { type: "tokens" | "finish" }>;

export class WorkerEngineClient implements EngineClient {
  readonly model: ModelCard;
  readonly text: ModelTextCodec;
  readonly adapter: string;
  readonly #worker: Worker;
  readonly #answers = new Map<string, EventQueue<Answer>>();
  #death: EngineDeadError | null = null;
  /** False once the thread has failed: it answers no more. */
  #isThreadRunning = true;
  #onProfile: ((rows: KernelProfile[]) => void) | undefined;
  #onClosed: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** Loads the model in a new Worker. Throws `SetupError`, `CheckpointError`, or whatever loading ran into. */
  static async start(options: StartOptions): Promise<WorkerEngineClient> {
    const { engine, modelName, created, onProgress, createWorker = engineWorker } = options;
    const config = await readModelConfig(engine.modelDir);
    const text = createTextCodec(engine.modelDir, config.architecture);
    const worker = createWorker();
    try {
      const info = await untilReady(worker, engine, onProgress);
      const card = modelCard({ modelName, created, config, info });
      return new WorkerEngineClient(worker, card, text, info.adapter);
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  private constructor(worker: Worker, model: ModelCard, text: ModelTextCodec, adapter: string) {
    this.model = model;
    this.text = text;
    this.adapter = adapter;
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
    const queue = new EventQueue<Answer>();
    const onAbort = () => queue.fail(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#answers.set(request.id, queue);
    this.#post({ type: "submit", request: admitted });
    let isFinished = false;
    try {
      for await (const event of this.#textEvents(admitted, queue)) {
        isFinished = event.type === "finish";
        yield event;
      }
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#answers.delete(request.id);
      if (!isFinished) this.#post({ type: "cancel", id: request.id });
    }
  }

  /** Kernel times since the start, if the engine was started with `profile`. */
  profile(): Promise<KernelProfile[]> {
    return new Promise((resolve) => {
      this.#onProfile = resolve;
      this.#post({ type: "profile" });
    });
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

  /** Ids to text, stop strings applied. A stop string ends the generation here; leaving the loop cancels the rest. */
  async *#textEvents(
    request: GenerationRequest,
    answers: AsyncIterable<Answer>,
  ): AsyncGenerator<GenerationEvent> {
    const detokenizer = this.text.newDetokenizer(request.promptIds);
    const stops = new StopMatcher(request.sampling.stop);
    const promptTokens = request.promptIds.length;
    let completionTokens = 0;
    for await (const answer of answers) {
      if (answer.type === "tokens") {
        const { text, stopped } = stops.push(answer.ids.map((id) => detokenizer.push(id)).join(""));
        completionTokens += answer.ids.length;
        if (text !== "" || !stopped) yield { type: "text", text, tokenIds: answer.ids };
        if (!stopped) continue;
        this.#post({ type: "cancel", id: request.id });
        yield { type: "finish", reason: "stop", promptTokens, completionTokens };
        return;
      }
      const rest = stops.push(detokenizer.flush());
      const text = rest.stopped ? rest.text : rest.text + stops.flush();
      if (text !== "") yield { type: "text", text, tokenIds: [] };
      const reason = rest.stopped ? "stop" : answer.reason;
      yield { type: "finish", reason, promptTokens, completionTokens };
      return;
    }
  }

  /** The request as the engine runs it, its token limit cut to the context. Throws if it can never run. */
  #admit(request: GenerationRequest): GenerationRequest {
    if (this.#death) throw this.#death;
    if (this.#answers.size >= QUEUED_REQUESTS_MAX) {
      throw new QueueFullError(
        `Cannot queue the request: at most ${QUEUED_REQUESTS_MAX} may wait, and that many do`,
        QUEUE_RETRY_SECONDS,
      );
    }
    return admit(request, this.model);
  }

  #receive(message: FromEngine): void {
    switch (message.type) {
      case "tokens":
      case "finish":
        this.#answers.get(message.id)?.push(message);
        return;
      case "failed":
        this.#answers.get(message.id)?.fail(restoreError(message.error));
        return;
      case "dead":
        this.#die(message.error.message);
        return;
      case "profile":
        this.#onProfile?.(message.rows);
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
    for (const queue of this.#answers.values()) queue.fail(this.#death);
  }

  #post(message: ToEngine): void {
    this.#worker.postMessage(message);
  }
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
  const { maxModelLen, isPrefixLm } = info;
  const { vocabSize, defaultSampling } = config;
  return { id: modelName, created, maxModelLen, vocabSize, isPrefixLm, defaultSampling };
}

const errorKinds = { CheckpointError, ContextLengthError, EngineDeadError, InvalidRequestError, SetupError };

function restoreError({ name, message }: ErrorMessage): Error {
  const Kind = errorKinds[name as keyof typeof errorKinds] as (typeof errorKinds)["SetupError"] | undefined;
  return Kind ? new Kind(message) : Object.assign(new Error(message), { name });
}
