/** From engine requests to their events: the part of answering that knows neither the endpoint nor HTTP. */
import type {
  AnswerEvent,
  EngineClient,
  GenerationEvent,
  GenerationRequest,
  PromptResult,
} from "../engine/client.ts";
import { merge } from "./merge.ts";
import { type NamedEvent, type NamedLogprobs, nameTokens } from "./token-names.ts";
import { TokenTally } from "./token-tally.ts";

/** How an answer ended and what it took. */
export type Finish = Extract<AnswerEvent, { type: "finish" }>;

export interface GeneratedAnswer {
  text: string;
  /** Empty unless the request asked for log-probabilities. */
  tokens: NamedLogprobs[];
  finish: Finish;
}

/** A prompt whose answers have begun. */
export interface StartedPrompt {
  ids: readonly number[];
  /** null if the engine tells nothing of it. */
  result: PromptResult | null;
}

/** The events of one request, or several, that are under way. */
export interface Generation {
  /** Of all prompts; each has as many. */
  choiceCount: number;
  prompts: readonly StartedPrompt[];
  /** Grows as the events are taken. */
  tally: TokenTally;
  /** Of each answer any number of `text`, then one `finish`; the last of these is the end. Throws what the engine throws. */
  events: AsyncIterable<NamedEvent>;
}

/** Submits `request` and waits for its first event, so that an early failure can still choose an HTTP status. */
export function startGeneration(
  engine: EngineClient,
  request: GenerationRequest,
  signal: AbortSignal,
): Promise<Generation> {
  return startGenerations(engine, [request], signal);
}

/** The same for several at once, with as many answers each: those of the second prompt are numbered after the first's. One that fails ends all. */
export async function startGenerations(
  engine: EngineClient,
  requests: readonly GenerationRequest[],
  signal: AbortSignal,
): Promise<Generation> {
  const failed = new AbortController();
  const anyEnd = AbortSignal.any([signal, failed.signal]);
  const starts = requests.map((request) => startOne(engine, request, anyEnd));
  const started = await Promise.all(starts).catch((error: unknown) => {
    failed.abort(error);
    throw error;
  });
  const choices = requests[0].sampling.n ?? 1;
  const tally = new TokenTally(started);
  const numbered = started.map(({ events }, index) => numberFrom(index * choices, events));
  return {
    choiceCount: requests.length * choices,
    prompts: started.map(({ ids, result }) => ({ ids, result })),
    tally,
    events: tally.counting(merge(numbered, () => failed.abort())),
  };
}

interface StartedRequest extends StartedPrompt {
  events: AsyncIterable<NamedEvent>;
}

async function startOne(
  engine: EngineClient,
  request: GenerationRequest,
  signal: AbortSignal,
): Promise<StartedRequest> {
  const { promptIds: ids, sampling } = request;
  const { n: choiceCount = 1, showSpecialTokens = false } = sampling;
  const iterator = engine.submit(request, signal)[Symbol.asyncIterator]();
  const first = await iterator.next();
  const result = !first.done && first.value.type === "prompt" ? first.value : null;
  const { text } = engine;
  const names = { text, promptIds: ids, choiceCount, showSpecialTokens };
  return { ids, result, events: nameTokens(resume(first, iterator, choiceCount), names) };
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

async function* numberFrom(
  first: number,
  events: AsyncIterable<NamedEvent>,
): AsyncGenerator<NamedEvent, void, void> {
  for await (const event of events) yield { ...event, choice: first + event.choice };
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
