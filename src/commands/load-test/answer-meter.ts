/**
 * Times of one streamed answer, by vLLM's definitions (vllm/benchmarks/lib/endpoint_request_func.py): a chunk with
 * choices counts, whatever is in it, the role chunk of a chat included; tokens are what the usage chunk says.
 */

/** Milliseconds of an answer, all from the moment the request was sent. */
export interface AnswerTimes {
  /** To the first chunk (TTFT). */
  ttftMs: number;
  /** Gaps between chunks (ITL). */
  itlMs: number[];
  /** To the last chunk with choices (E2EL). */
  latencyMs: number;
}

export interface AnswerSize {
  /** Null from a server that sends no usage. */
  promptTokens: number | null;
  /** Without usage, the chunks with text in them: a lower bound. */
  outputTokens: number;
  isCounted: boolean;
}

export interface StreamChunk {
  choices?: { text?: string | null; delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: { prompt_tokens?: number; completion_tokens?: number } | null;
}

export class AnswerMeter {
  readonly #sentMs: number;
  readonly #chunksMs: number[] = [];
  #textChunks = 0;
  #usage: StreamChunk["usage"] = null;
  #isFinished = false;

  constructor(sentMs: number) {
    this.#sentMs = sentMs;
  }

  /** A chunk that arrived at `nowMs`. */
  take({ choices, usage }: StreamChunk, nowMs: number): void {
    this.#usage = usage ?? this.#usage;
    if (!choices || choices.length === 0) return;
    this.#chunksMs.push(nowMs);
    const [{ text, delta, finish_reason }] = choices;
    if (text || delta?.content) this.#textChunks++;
    if (finish_reason) this.#isFinished = true;
  }

  /** The stream said that it is complete. */
  get isFinished(): boolean {
    return this.#isFinished;
  }

  /** Null if nothing was answered. */
  times(): AnswerTimes | null {
    const [first, ...others] = this.#chunksMs;
    if (first === undefined) return null;
    const itlMs = others.map((time, index) => time - this.#chunksMs[index]);
    return { ttftMs: first - this.#sentMs, itlMs, latencyMs: (others.at(-1) ?? first) - this.#sentMs };
  }

  size(): AnswerSize {
    const { prompt_tokens = null, completion_tokens } = this.#usage ?? {};
    return {
      promptTokens: prompt_tokens,
      outputTokens: completion_tokens ?? this.#textChunks,
      isCounted: completion_tokens !== undefined,
    };
  }
}
