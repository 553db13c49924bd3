/** `POST /v1/completions`: continue raw prompts. */
import { z } from "zod";
import type { EngineClient } from "../engine/client.ts";
import { PROMPTS_MAX, TOP_LOGPROBS_MAX } from "../limits.ts";
import { completionChunks, type CompletionView, wholeCompletion } from "./completion-answer.ts";
import type { Endpoint, StartOptions } from "./endpoint.ts";
import { type Generation, startGenerations } from "./generation.ts";
import { toGenerationRequest } from "./generation-request.ts";
import { toGrammar } from "./output-format.ts";
import { commonParameters } from "./parameters.ts";
import { toPromptView } from "./prompt-view.ts";
import { type RawPrompt, rawPrompts, toIds } from "./prompts.ts";
import { boolean, integerBetween, integerFrom, object, only, refusal } from "./validation.ts";

/** OpenAI's own. */
const MAX_TOKENS_DEFAULT = 16;

const parameters = object({
  ...commonParameters,
  prompt: rawPrompts(PROMPTS_MAX),
  add_special_tokens: boolean.optional(),
  /** How many leading prompt tokens see each other in both directions. An extension of this server. */
  prefix_len: integerFrom(0).optional(),
  logprobs: integerBetween(0, TOP_LOGPROBS_MAX).optional(),
  echo: boolean.optional(),
  /** 0 only for what an echo shows of the prompt. */
  max_tokens: integerFrom(0).optional(),
  best_of: only(1).optional(),
  suffix: z.never({ error: "nothing, as text is continued and not filled in" }).optional(),
});

type CompletionParameters = z.output<typeof parameters>;

export const completions: Endpoint<CompletionParameters> = {
  parameters,
  idPrefix: "cmpl-",
  start: async (parameters, options) => {
    const generation = await start(parameters, options);
    const view = toView(parameters, options.services.engine, generation);
    return {
      whole: (head) => wholeCompletion(head, generation, view),
      chunks: (head) => completionChunks(head, generation, view),
    };
  },
};

function start(parameters: CompletionParameters, options: StartOptions): Promise<Generation> {
  const { services, id, signal } = options;
  const { prompt: prompts, prefix_len: prefixLength, echo = false, logprobs, max_tokens } = parameters;
  if (max_tokens === 0 && !echo) {
    throw refusal("max_tokens", "expected at least 1, or echo to be true, got 0 without");
  }
  const requests = prompts.map((prompt, index) =>
    toGenerationRequest(
      services,
      {
        promptIds: toIds(prompt, services.engine, { addSpecialTokens: parameters.add_special_tokens }),
        prefixLength,
      },
      {
        id: prompts.length === 1 ? id : `${id}-${index}`,
        // An engine's answer has one token at least, which the view leaves out.
        parameters:
          max_tokens === 0 ? { ...parameters, max_tokens: 1, max_completion_tokens: 1 } : parameters,
        maxTokensDefault: MAX_TOKENS_DEFAULT,
        topLogprobs: logprobs,
        grammar: toGrammar(parameters),
        promptLogprobs: echo ? { param: "logprobs", topCount: logprobs } : undefined,
      },
    ),
  );
  return startGenerations(services.engine, requests, signal);
}

function toView(
  { echo = false, logprobs, prompt: prompts, ...parameters }: CompletionParameters,
  engine: EngineClient,
  generation: Generation,
): CompletionView {
  const textOf = (prompt: RawPrompt, ids: readonly number[]) => {
    const isCut = parameters.truncate_prompt_tokens !== undefined;
    return typeof prompt === "string" && !isCut ? prompt : engine.text.decode(ids);
  };
  return {
    ...toPromptView(parameters, engine),
    echoes: echo ? prompts.map((prompt, index) => textOf(prompt, generation.prompts[index].ids)) : null,
    hasAnswers: parameters.max_tokens !== 0,
    logprobs,
  };
}
