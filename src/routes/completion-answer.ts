/** The answer objects of `/v1/completions`, whole and in chunks. */
import { type AnswerHead, ChunkMaker, type StreamHead, toChoice, toUsage } from "./answer.ts";
import { collect, type Finish, type Generation, type StartedPrompt } from "./generation.ts";
import { completionLogprobs } from "./logprobs.ts";
import { namedPrompt, promptFields, type PromptView } from "./prompt-view.ts";
import type { NamedLogprobs } from "./token-names.ts";

const object = "text_completion";

/** What of prompts and answers is shown. */
export interface CompletionView extends PromptView {
  /** By prompt: the text that goes before its answers; null for none. */
  echoes: readonly string[] | null;
  /** False if the prompts alone are wanted: answers have no tokens then. */
  hasAnswers: boolean;
  /** Most likely tokens that are listed beside each token; undefined for no log-probabilities. */
  logprobs: number | undefined;
}

/** What stands before each answer to a prompt. */
interface PromptPart {
  text: string;
  /** Of the text, if it is shown and log-probabilities are. */
  tokens: readonly NamedLogprobs[];
  /** Further fields of a choice. */
  fields: object;
}

export async function wholeCompletion(
  head: AnswerHead,
  generation: Generation,
  view: CompletionView,
): Promise<object> {
  const parts = await promptParts(generation, view);
  const { tally, choiceCount } = generation;
  const answers = await collect(generation);
  const finishes = answers.map(({ finish }) => shownFinish(finish, view));
  const choices = answers.map((answer, index) => {
    const part = parts[Math.floor((index * parts.length) / choiceCount)];
    const [text, tokens] = view.hasAnswers ? [answer.text, answer.tokens] : ["", []];
    const ids = view.hasAnswers ? tally.takeIds(index) : [];
    const { reason, stop } = finishes[index];
    return toChoice({
      index,
      part: { text: part.text + text, ...part.fields, ...(view.showTokenIds && { token_ids: ids }) },
      logprobs: logprobsOf(part, tokens, true),
      reason,
      stop,
    });
  });
  return { ...head, object, choices, usage: toUsage(finishes, parts.length) };
}

/** Of each answer its prompt, if anything of that is shown, its text as it comes, and a last chunk with the reason; at last the usage, if asked for. */
export async function* completionChunks(
  head: StreamHead,
  generation: Generation,
  view: CompletionView,
): AsyncGenerator<object> {
  const { events, choiceCount, tally } = generation;
  const { promptTokens } = tally;
  const chunks = new ChunkMaker(
    object,
    head,
    view.hasAnswers ? tally : { promptTokens, completionTokens: 0 },
  );
  const parts = await promptParts(generation, view);
  const partOf = (index: number) => parts[Math.floor((index * parts.length) / choiceCount)];
  for (let index = 0; index < choiceCount; index++) {
    const part = partOf(index);
    if (part.text === "" && Object.keys(part.fields).length === 0) continue;
    const logprobs = logprobsOf(part, [], true);
    yield chunks.choice({ index, part: { text: part.text, ...part.fields }, logprobs });
  }
  const finishes: Finish[] = [];
  for await (const event of events) {
    const { choice: index, tokens } = event;
    const ids = tally.takeIds(index);
    const idFields = view.showTokenIds ? { token_ids: view.hasAnswers ? ids : [] } : {};
    if (event.type === "finish") {
      finishes[index] = shownFinish(event, view);
      const { reason, stop } = finishes[index];
      yield chunks.choice({ index, part: { text: "", ...idFields }, reason, stop });
    } else if (view.hasAnswers && (event.text !== "" || tokens.length > 0 || view.showTokenIds)) {
      const logprobs = logprobsOf(partOf(index), tokens, false);
      yield chunks.choice({ index, part: { text: event.text, ...idFields }, logprobs });
    }
  }
  if (head.includeUsage) yield chunks.usage(finishes, parts.length);
}

function promptParts({ prompts }: Generation, view: CompletionView): Promise<PromptPart[]> {
  return Promise.all(prompts.map((prompt, index) => promptPart(prompt, view.echoes?.[index] ?? null, view)));
}

async function promptPart(
  prompt: StartedPrompt,
  echo: string | null,
  view: CompletionView,
): Promise<PromptPart> {
  const { logprobs } = view;
  const named = await namedPrompt(prompt, view);
  const isEchoed = echo !== null && logprobs !== undefined;
  return {
    text: echo ?? "",
    tokens: isEchoed ? named.map((token) => ({ ...token, top: token.top.slice(0, logprobs) })) : [],
    fields: promptFields(prompt, named, view),
  };
}

/** Of the answer's tokens, whose offsets count from the beginning of the prompt if that is shown; of the prompt's as well if asked for. */
function logprobsOf(part: PromptPart, tokens: readonly NamedLogprobs[], withPrompt: boolean): object | null {
  const before = [...part.text].length;
  const shifted = tokens.map((token) => ({ ...token, offset: before + token.offset }));
  const all = withPrompt ? [...part.tokens, ...shifted] : shifted;
  const isFirstOfText = withPrompt && part.tokens.length > 0;
  return all.length > 0 ? completionLogprobs(all, { isFirstOfText }) : null;
}

function shownFinish(finish: Finish, { hasAnswers }: CompletionView): Finish {
  // What the one token that nobody sees would have ended is of no interest.
  return hasAnswers ? finish : { ...finish, reason: "length", stop: undefined, completionTokens: 0 };
}
