/** From an engine request to its events: the part of answering that knows neither the endpoint nor HTTP. */
import type {
  AnswerEvent,
  EngineClient,
  GenerationEvent,
  GenerationRequest,
  PromptResult,
} from "../engine/client.ts";
import { type NamedEvent, type NamedLogprobs, nameTokens } from "./token-names.ts";

/** How an answer ended and what it took. */
export type Finish = Extract<AnswerEvent, { type: "finish" }>;

export interface GeneratedAnswer {
  text: string;
  /** Empty unless the request asked for log-probabilities. */
  tokens: NamedLogprobs[];
  finish: Finish;
}

/** The events of a request that is under way. */
export interface Generation {
  choiceCount: number;
  prompt: PromptResult;
  /** Of each answer any number of `text`, then one `finish`; the last of these is the end. Throws what the engine throws. */
  events: AsyncIterable<NamedEvent>;
}

/** Submits `request` and waits for its first event, so that an early failure can still choose an HTTP status. */
export async function startGeneration(
  engine: EngineClient,
  request: GenerationRequest,
  signal: AbortSignal,
): Promise<Generation> {
  const iterator = engine.submit(request, signal)[Symbol.asyncIterator]();
  const choiceCount = request.sampling.n ?? 1;
  const first = await iterator.next();
  const prompt = !first.done && first.value.type === "prompt" ? first.value : { cachedTokens: 0 };
  const events = resume(first, iterator, choiceCount);
  const { text } = engine;
  const named = nameTokens(events, { text, promptIds: request.promptIds, choiceCount });
  return { choiceCount, prompt, events: named };
}

async function* resume(
  first: IteratorResult<GenerationEvent>,
  iterator: AsyncIterator<GenerationEvent>,
  choiceCount: number,
): AsyncGenerator<AnswerEvent> {
  let unfinished = choiceCount;
  try {
    for (let step = first; !step.done; step = await iterator.next()) {
      if (step.value.type === "prompt") continue;
      yield step.value;
      if (step.value.type === "finish" && --unfinished === 0) return;
    }
  } finally {
    await iterator.return?.();
  }
  throw new Error(
    `Cannot finish a generation: expected ${unfinished} more finish events, got the end of the events`,
  );
}

/** All of a generation at once, answers in order. */
export async function collect({ events, choiceCount }: Generation): Promise<GeneratedAnswer[]> {
  const answers = Array.from({ length: choiceCount }, () => ({ text: "", tokens: [] as NamedLogprobs[] }));
  const finishes: Finish[] = [];
  for await (const event of events) {
    const answer = answers[event.choice];
    answer.tokens.push(...event.tokens);
    if (event.type === "finish") finishes[event.choice] = event;
    else answer.text += event.text;
  }
  return answers.map((answer, choice) => ({ ...answer, finish: finishes[choice] }));
}
