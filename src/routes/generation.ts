/** From an engine request to its events: the part of answering that knows neither the endpoint nor HTTP. */
import type { EngineClient, GenerationEvent, GenerationRequest } from "../engine/client.ts";

/** How a generation ended and what it took. */
export type Finish = Extract<GenerationEvent, { type: "finish" }>;

export interface GeneratedText {
  text: string;
  finish: Finish;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/**
 * Submits `request` and waits for its first event, so that an early failure can still choose an HTTP status.
 * The events returned begin with that first one and end with `finish`, or throw.
 */
export async function startGeneration(
  engine: EngineClient,
  request: GenerationRequest,
  signal: AbortSignal,
): Promise<AsyncIterable<GenerationEvent>> {
  const iterator = engine.submit(request, signal)[Symbol.asyncIterator]();
  return resume(await iterator.next(), iterator);
}

async function* resume(
  first: IteratorResult<GenerationEvent>,
  iterator: AsyncIterator<GenerationEvent>,
): AsyncGenerator<GenerationEvent> {
  try {
    for (let step = first; !step.done; step = await iterator.next()) {
      yield step.value;
      if (step.value.type === "finish") return;
    }
  } finally {
    await iterator.return?.();
  }
  throw new Error("Cannot finish a generation: expected a finish event, got the end of the events");
}

/** All of a generation at once. */
export async function collect(events: AsyncIterable<GenerationEvent>): Promise<GeneratedText> {
  let text = "";
  for await (const event of events) {
    if (event.type === "finish") return { text, finish: event };
    text += event.text;
  }
  throw new Error("Cannot collect a generation: expected a finish event, got none");
}

export function usageOf({ promptTokens, completionTokens }: Finish): Usage {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}
