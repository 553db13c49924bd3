/**
 * One thread of matchers from outside: asks it one thing at a time, and ends it when it fails or takes too long.
 * A new one is started with the next question. Owns no grammars: `generation` tells when what it knew is gone.
 */
import { GRAMMAR_START_MS_MAX } from "../../limits.ts";
import type { StartTimer } from "../timer.ts";
import type { FromMatchers, MatcherModel, MoveResult, ToMatchers } from "./protocol.ts";

export interface ThreadOptions {
  model: MatcherModel;
  createWorker: () => Worker;
  startTimer: StartTimer;
}

/** The thread has been ended, and with it all that it knew. */
export class ThreadLostError extends Error {
  override name = "ThreadLostError";
  /** What the library said; null when the thread hung or died without a word. */
  readonly said: string | null;
  constructor(message: string, said: string | null = null) {
    super(message);
    this.said = said;
  }
}

export class MatcherThread {
  readonly #options: ThreadOptions;
  #worker: Worker | null = null;
  #settle: { resolve: (results: MoveResult[]) => void; reject: (error: ThreadLostError) => void } | null =
    null;
  #generation = 0;
  #losses = 0;

  constructor(options: ThreadOptions) {
    this.#options = options;
  }

  /** Counts the threads there were: a grammar or matcher is known only to the one that was told of it. */
  get generation(): number {
    return this.#generation;
  }

  /** How often it was ended because it failed or hung. */
  get losses(): number {
    return this.#losses;
  }

  /** Starts the thread unless it runs. Throws `ThreadLostError`. */
  async start(): Promise<void> {
    if (this.#worker) return;
    this.#generation++;
    const worker = this.#options.createWorker();
    this.#worker = worker;
    worker.onmessage = ({ data }: MessageEvent<FromMatchers>) => this.#receive(worker, data);
    worker.onerror = (event) => {
      event.preventDefault(); // Deno would end the process
      if (worker === this.#worker) this.#lose(new ThreadLostError(`it died: ${event.message}`));
    };
    await this.#send({ type: "start", model: this.#options.model }, GRAMMAR_START_MS_MAX);
  }

  /** Waits for the answer; there must be no other question open. Throws `ThreadLostError`. */
  async ask(
    question: Extract<ToMatchers, { type: "compile" | "move" }>,
    limitMs: number,
  ): Promise<MoveResult[]> {
    await this.start();
    return this.#send(question, limitMs);
  }

  /** What needs no answer, and no thread if there is none. */
  tell(message: Extract<ToMatchers, { type: "forget" | "close" }>): void {
    this.#worker?.postMessage(message);
  }

  close(): void {
    this.#end(new ThreadLostError("it was closed"));
  }

  async #send(message: ToMatchers, limitMs: number): Promise<MoveResult[]> {
    const answer = Promise.withResolvers<MoveResult[]>();
    this.#settle = answer;
    const late = () => this.#lose(new ThreadLostError(`it took longer than ${limitMs / 1000} s`));
    const stopTimer = this.#options.startTimer(limitMs, late);
    this.#worker?.postMessage(message);
    try {
      return await answer.promise;
    } finally {
      stopTimer();
    }
  }

  #receive(worker: Worker, message: FromMatchers): void {
    if (worker !== this.#worker) return;
    if (message.type === "failed") {
      this.#lose(new ThreadLostError("it failed", message.message));
      return;
    }
    const settle = this.#settle;
    this.#settle = null;
    settle?.resolve(message.results);
  }

  #lose(error: ThreadLostError): void {
    this.#losses++;
    this.#end(error);
  }

  #end(error: ThreadLostError): void {
    this.#worker?.terminate();
    this.#worker = null;
    const settle = this.#settle;
    this.#settle = null;
    settle?.reject(error);
  }
}
