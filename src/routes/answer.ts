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
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** If the model thought. */
  completion_tokens_details?: { reasoning_tokens: number };
}

/** The answers of a request have their prompt in common. */
export function toUsage(answers: readonly TokenCounts[]): Usage {
  const sum = (count: (answer: TokenCounts) => number) =>
    answers.reduce((total, answer) => total + count(answer), 0);
  const { promptTokens } = answers[0];
  const completionTokens = sum((answer) => answer.completionTokens);
  const reasoningTokens = sum((answer) => answer.reasoningTokens ?? 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    ...(reasoningTokens > 0 && { completion_tokens_details: { reasoning_tokens: reasoningTokens } }),
  };
}

/** The chunks of one stream. */
export class ChunkMaker {
  readonly #head: object;
  readonly #noUsage: object;

  constructor(object: string, { includeUsage, ...head }: StreamHead) {
    this.#head = { ...head, object };
    // OpenAI promises "usage": null on the other chunks of a stream that ends with usage, and no such field otherwise.
    this.#noUsage = includeUsage ? { usage: null } : {};
  }

  choice(choice: Choice): object {
    return { ...this.#head, choices: [toChoice(choice)], ...this.#noUsage };
  }

  usage(answers: readonly TokenCounts[]): object {
    return { ...this.#head, choices: [], usage: toUsage(answers) };
  }
}
