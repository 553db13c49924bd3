/** OpenAI's answer objects, whole and in chunks. What differs between the endpoints is an `AnswerShape`. */
import type { FinishReason } from "../engine/client.ts";
import { type Finish, type GeneratedAnswer, type Generation, usageOf } from "./generation.ts";
import type { NamedLogprobs } from "./token-names.ts";

export interface AnswerShape {
  /** The `object` field of a whole answer and of a chunk. */
  object: string;
  chunkObject: string;
  /** The endpoint's own part of a choice in a whole answer. */
  whole(text: string): object;
  /** The same in the chunk before any text (null: no such chunk), in one with text, and in the last. */
  opening: object | null;
  piece(text: string): object;
  closing: object;
  logprobs(tokens: readonly NamedLogprobs[]): object;
}

/** What an answer and all its chunks share. */
export interface AnswerHead {
  id: string;
  /** Seconds since the epoch. */
  created: number;
  model: string;
}

export function wholeAnswer(
  shape: AnswerShape,
  head: AnswerHead,
  answers: readonly GeneratedAnswer[],
): object {
  const choices = answers.map(({ text, tokens, finish: { reason, stop } }, index) =>
    toChoice(shape, { index, part: shape.whole(text), tokens, reason, stop }),
  );
  return { ...head, object: shape.object, choices, usage: usageOf(answers.map(({ finish }) => finish)) };
}

interface ChunkOptions extends AnswerHead {
  includeUsage: boolean;
}

/** The chunks of streamed answers: of each the opening, text as it comes, closing with the reason; at last the usage, if asked for. */
export async function* answerChunks(
  shape: AnswerShape,
  { includeUsage, ...head }: ChunkOptions,
  { events, choiceCount }: Generation,
): AsyncGenerator<object> {
  const object = shape.chunkObject;
  // OpenAI promises "usage": null on the other chunks of a stream that ends with usage, and no such field otherwise.
  const noUsage = includeUsage ? { usage: null } : {};
  const chunk = (choice: Choice): object => {
    return { ...head, object, choices: [toChoice(shape, choice)], ...noUsage };
  };
  for (let index = 0; shape.opening && index < choiceCount; index++) {
    yield chunk({ index, part: shape.opening });
  }
  const finishes: Finish[] = [];
  for await (const event of events) {
    const { choice: index, tokens } = event;
    if (event.type === "finish") {
      finishes.push(event);
      yield chunk({ index, part: shape.closing, reason: event.reason, stop: event.stop });
    } else if (event.text !== "" || tokens.length > 0) {
      yield chunk({ index, part: shape.piece(event.text), tokens });
    }
  }
  if (includeUsage) yield { ...head, object, choices: [], usage: usageOf(finishes) };
}

interface Choice {
  index: number;
  /** The endpoint's own. */
  part: object;
  tokens?: readonly NamedLogprobs[];
  reason?: FinishReason;
  /** What of the request's own ended it; not OpenAI's, but what clients of vLLM look for. */
  stop?: string | number;
}

function toChoice(shape: AnswerShape, { index, part, tokens = [], reason, stop }: Choice): object {
  const logprobs = tokens.length > 0 ? shape.logprobs(tokens) : null;
  return {
    index,
    ...part,
    logprobs,
    finish_reason: reason ?? null,
    ...(stop === undefined ? {} : { stop_reason: stop }),
  };
}
