/**
 * The step loop: takes requests one after the other and runs their prefill and decode steps.
 *
 * A decode step is submitted before the ids of the step before have been read: ids go from sampling to embedding on
 * the GPU, and JavaScript reads one step behind, so the GPU does not wait. A step too many at the end of an answer
 * is the price, and its id is dropped. Knows ids only; text is the client's business.
 */
import { setImmediate } from "node:timers/promises";
import type { GenerationRequest } from "./client.ts";
import { BlockPool } from "./kv-cache/block-pool.ts";
import type { Runner, StepResult } from "./runner.ts";
import { type RowSampling, sampledRow, type SequenceStep } from "./step-plan.ts";

export interface CoreOptions {
  runner: Pick<Runner, "run" | "limits">;
  blockCount: number;
  /** A prompt may not be cut along tokens. */
  isPrefixLm: boolean;
  /** Ids that end an answer; the id itself is reported. */
  eosTokenIds: readonly number[];
}

export type CoreEvent = { type: "tokens"; ids: number[] } | { type: "finish"; reason: "stop" | "length" };

interface Entry {
  request: GenerationRequest;
  emit: (event: CoreEvent) => void;
  fail: (error: unknown) => void;
  isCancelled: boolean;
}

export class EngineCore {
  readonly #options: CoreOptions;
  readonly #pool: BlockPool;
  readonly #waiting: Entry[] = [];
  readonly #entries = new Map<string, Entry>();
  #isRunning = false;
  /** The latest run over the waiting requests. */
  #run = Promise.resolve();

  constructor(options: CoreOptions) {
    this.#options = options;
    // One more for the null block, which is never given out.
    this.#pool = new BlockPool(options.blockCount + 1);
  }

  /** Queues a request. `emit` gets its events, ending with `finish`, unless it is cancelled or `fail` is called. */
  submit(request: GenerationRequest, emit: Entry["emit"], fail: Entry["fail"]): void {
    const entry = { request, emit, fail, isCancelled: false };
    this.#entries.set(request.id, entry);
    this.#waiting.push(entry);
    if (!this.#isRunning) this.#run = this.#runAll();
  }

  /** Ends a request at the next step; nothing more is emitted for it. Unknown ids are ignored. */
  cancel(id: string): void {
    const entry = this.#entries.get(id);
    if (entry) entry.isCancelled = true;
  }

  /** Ends all requests, without a word to them, and resolves when no step is under way any more. */
  async close(): Promise<void> {
    for (const entry of this.#entries.values()) entry.isCancelled = true;
    await this.#run;
  }

  async #runAll(): Promise<void> {
    this.#isRunning = true;
    for (let entry = this.#waiting.shift(); entry; entry = this.#waiting.shift()) {
      try {
        await this.#generate(entry);
      } catch (error) {
        entry.fail(error);
      } finally {
        this.#entries.delete(entry.request.id);
      }
    }
    this.#isRunning = false;
  }

  async #generate(entry: Entry): Promise<void> {
    if (entry.isCancelled) return;
    const { promptIds, sampling } = entry.request;
    const blocks = this.#pool.allocate(this.#blocksFor(promptIds.length + sampling.maxTokens));
    if (!blocks)
      throw new Error(`Cannot run request ${entry.request.id}: its KV blocks are more than there are`);
    try {
      const first = await this.#prefill(entry, blocks);
      if (first) await this.#decode(entry, blocks, first);
    } finally {
      this.#pool.release(blocks);
    }
  }

  #blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.#options.runner.limits.blockSize);
  }

  /** Runs the prompt; returns the step that samples the first token, or null if the request was cancelled. */
  async #prefill(entry: Entry, blocks: readonly number[]): Promise<StepResult | null> {
    const { runner } = this.#options;
    const { promptIds } = entry.request;
    const prefixLength = this.#prefixLength(entry.request);
    // Keys and values of a whole bidirectional prefix must be there before any of its queries runs.
    const firstChunk = Math.max(prefixLength, Math.min(promptIds.length, runner.limits.tokens));
    let result: StepResult | null = null;
    for (let start = 0; start < promptIds.length && !entry.isCancelled;) {
      const end = Math.min(promptIds.length, start === 0 ? firstChunk : start + runner.limits.tokens);
      const isLast = end === promptIds.length;
      const chunk = { tokenIds: promptIds.slice(start, end), start, prefixLength, blocks };
      result = isLast
        ? this.#sampleStep(entry.request, chunk, 0)
        : runner.run([{ ...chunk, logits: "none" }]);
      start = end;
      // Lets a cancellation in between chunks: it comes as a message, which a resolved promise would not wait for.
      if (!isLast) await setImmediate();
    }
    return entry.isCancelled ? null : result;
  }

  #prefixLength({ prefixLength, promptIds }: GenerationRequest): number {
    return this.#options.isPrefixLm ? (prefixLength ?? promptIds.length) : 0;
  }

  async #decode(entry: Entry, blocks: readonly number[], first: StepResult): Promise<void> {
    const { request } = entry;
    const { maxTokens } = request.sampling;
    const prefixLength = this.#prefixLength(request);
    let pending = first;
    for (let generated = 1; !entry.isCancelled; generated++) {
      const isLast = generated === maxTokens;
      const start = request.promptIds.length + generated - 1;
      const next = isLast
        ? null
        : this.#sampleStep(request, { tokenIds: [sampledRow(0)], start, prefixLength, blocks }, generated);
      const [id] = await pending.sampled();
      const isEnd = this.#options.eosTokenIds.includes(id);
      emit(entry, { type: "tokens", ids: [id] });
      if (isEnd || isLast) emit(entry, { type: "finish", reason: isEnd ? "stop" : "length" });
      if (!next) return;
      pending = next;
      if (isEnd) break;
    }
    // The step that was submitted ahead: its KV blocks are in use until it is done, and its result must be read once.
    await pending.sampled();
  }

  #sampleStep(request: GenerationRequest, part: Omit<SequenceStep, "logits">, step: number): StepResult {
    const { temperature, topK, topP, minP, seed } = request.sampling;
    const sampling: RowSampling = { temperature, topK, topP, minP, seed, step };
    return this.#options.runner.run([{ ...part, logits: "last", sampling }], "sampled");
  }
}

function emit(entry: Entry, event: CoreEvent): void {
  if (!entry.isCancelled) entry.emit(event);
}
