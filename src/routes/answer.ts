/** OpenAI's answer objects, whole and in chunks. What differs between the endpoints is an `AnswerShape`. */
import type { FinishReason, GenerationEvent } from "../engine/client.ts";
import { type GeneratedText, usageOf } from "./generation.ts";

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
}

/** What an answer and all its chunks share. */
export interface AnswerHead {
  id: string;
  /** Seconds since the epoch. */
  created: number;
  model: string;
}

export function wholeAnswer(shape: AnswerShape, head: AnswerHead, { text, finish }: GeneratedText): object {
  const choices = [choice(shape.whole(text), finish.reason)];
  return { ...head, object: shape.object, choices, usage: usageOf(finish) };
}

interface ChunkOptions extends AnswerHead {
  includeUsage: boolean;
}

/** The chunks of a streamed answer: opening, text as it comes, closing with the reason, usage if asked for. */
export async function* answerChunks(
  shape: AnswerShape,
  { includeUsage, ...head }: ChunkOptions,
  events: AsyncIterable<GenerationEvent>,
): AsyncGenerator<object> {
  const object = shape.chunkObject;
  // OpenAI promises "usage": null on the other chunks of a stream that ends with usage, and no such field otherwise.
  const noUsage = includeUsage ? { usage: null } : {};
  const chunk = (part: object, reason: FinishReason | null = null): object => {
    return { ...head, object, choices: [choice(part, reason)], ...noUsage };
  };
  if (shape.opening) yield chunk(shape.opening);
  for await (const event of events) {
    if (event.type === "text") {
      if (event.text !== "") yield chunk(shape.piece(event.text));
      continue;
    }
    yield chunk(shape.closing, event.reason);
    if (includeUsage) yield { ...head, object, choices: [], usage: usageOf(event) };
  }
}

function choice(part: object, reason: FinishReason | null): object {
  return { index: 0, ...part, logprobs: null, finish_reason: reason };
}
