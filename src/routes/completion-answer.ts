/** The answer objects of `/v1/completions`, whole and in chunks. */
import { type AnswerHead, ChunkMaker, type StreamHead, toChoice, toUsage } from "./answer.ts";
import { collect, type Finish, type Generation } from "./generation.ts";
import { completionLogprobs } from "./logprobs.ts";
import type { NamedLogprobs } from "./token-names.ts";

const object = "text_completion";

export async function wholeCompletion(head: AnswerHead, generation: Generation): Promise<object> {
  const answers = await collect(generation);
  const choices = answers.map(({ text, tokens, finish: { reason, stop } }, index) =>
    toChoice({ index, part: { text }, logprobs: toLogprobs(tokens), reason, stop }),
  );
  return { ...head, object, choices, usage: toUsage(answers.map(({ finish }) => finish)) };
}

/** Of each answer its text as it comes, and a last chunk with the reason; at last the usage, if asked for. */
export async function* completionChunks(head: StreamHead, { events }: Generation): AsyncGenerator<object> {
  const chunks = new ChunkMaker(object, head);
  const finishes: Finish[] = [];
  for await (const event of events) {
    const { choice: index, tokens } = event;
    if (event.type === "finish") {
      finishes.push(event);
      yield chunks.choice({ index, part: { text: "" }, reason: event.reason, stop: event.stop });
    } else if (event.text !== "" || tokens.length > 0) {
      yield chunks.choice({ index, part: { text: event.text }, logprobs: toLogprobs(tokens) });
    }
  }
  if (head.includeUsage) yield chunks.usage(finishes);
}

function toLogprobs(tokens: readonly NamedLogprobs[]): object | null {
  return tokens.length > 0 ? completionLogprobs(tokens) : null;
}
