/** What the answers of OpenAI's endpoints have in common: head, choices, chunks and usage. */

/** What an answer and all its chunks share. */
export interface AnswerHead {
  id: string;
  /** Seconds since the epoch. */
  created: number;
  model: string;
}

/** What is streamed: the head of the answer, and whether its usage comes last. */
export interface StreamHead extends AnswerHead {
  includeUsage: boolean;
  /** Every other chunk tells the usage so far. */
  continuousUsage: boolean;
}

export interface Choice {
  index: number;
  /** The endpoint's own: a message, a delta, a text. */
  part: object;
  /** null: nothing to tell. */
  logprobs?: object | null;
  /** Left out while the answer goes on. */
  reason?: string;
  /** What of the request's own ended it; not OpenAI's, but what clients of vLLM look for. */
  stop?: string | number;
}

export function toChoice({ index, part, logprobs = null, reason, stop }: Choice): object {
  return {
    index,
    ...part,
    logprobs,
    finish_reason: reason ?? null,
    ...(stop === undefined ? {} : { stop_reason: stop }),
  };
}

/** What the end of each answer tells about tokens. */
export interface TokenCounts {
  promptTokens: number;
  completionTokens: number;
  reasoningTokens?: number;
  /** Of the prompt's. */
  cachedTokens?: number;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** If the engine tells. */
  prompt_tokens_details?: { cached_tokens: number };
  /** If the model thought. */
  completion_tokens_details?: { reasoning_tokens: number };
}

/** Of the answers in order; `promptCount` prompts have as many answers each. */
export function toUsage(answers: readonly TokenCounts[], promptCount = 1): Usage {
  const perPrompt = answers.length / promptCount;
  const firsts = answers.filter((_, index) => index % perPrompt === 0);
  const promptTokens = sum(firsts.map((answer) => answer.promptTokens));
  const completionTokens = sum(answers.map((answer) => answer.completionTokens));
  const reasoningTokens = sum(answers.map((answer) => answer.reasoningTokens ?? 0));
  const isCacheKnown = firsts.every(({ cachedTokens }) => cachedTokens !== undefined);
  const cachedTokens = sum(firsts.map((answer) => answer.cachedTokens ?? 0));
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    ...(isCacheKnown && { prompt_tokens_details: { cached_tokens: cachedTokens } }),
    ...(reasoningTokens > 0 && { completion_tokens_details: { reasoning_tokens: reasoningTokens } }),
  };
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}

/** The chunks of one stream. */
export class ChunkMaker {
  readonly #head: object;
  readonly #usageSoFar: () => object;

  /** `tally` tells the usage so far. */
  constructor(object: string, { includeUsage, continuousUsage, ...head }: StreamHead, tally: TokenCounts) {
    this.#head = { ...head, object };
    // OpenAI promises "usage": null on the other chunks of a stream that ends with usage, and no such field otherwise.
    this.#usageSoFar = () => (includeUsage ? { usage: continuousUsage ? toUsage([tally]) : null } : {});
  }

  choice(choice: Choice): object {
    return { ...this.#head, choices: [toChoice(choice)], ...this.#usageSoFar() };
  }

  usage(answers: readonly TokenCounts[], promptCount = 1): object {
    return { ...this.#head, choices: [], usage: toUsage(answers, promptCount) };
  }
}
