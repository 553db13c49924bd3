/** `POST /v1/completions`: continue a raw prompt. */
import { z } from "zod";
import type { EngineClient } from "../engine/client.ts";
import { TOP_LOGPROBS_MAX } from "../limits.ts";
import { completionChunks, wholeCompletion } from "./completion-answer.ts";
import type { Endpoint } from "./endpoint.ts";
import { describe } from "./errors.ts";
import { startGeneration } from "./generation.ts";
import { type Prompt, toGenerationRequest } from "./generation-request.ts";
import { commonParameters } from "./parameters.ts";
import { isTokenId } from "./token-parameters.ts";
import { integerBetween, integerFrom, object, only, refusal } from "./validation.ts";

/** OpenAI's own. */
const MAX_TOKENS_DEFAULT = 16;

/** Text to be tokenized, or token ids. */
type RawPrompt = string | number[];

const parameters = object({
  ...commonParameters,
  prompt: z.unknown().optional().transform(toRawPrompt),
  /** How many leading prompt tokens see each other in both directions. An extension of this server. */
  prefix_len: integerFrom(0).optional(),
  logprobs: integerBetween(0, TOP_LOGPROBS_MAX).optional(),
  best_of: only(1).optional(),
  echo: only(false).optional(),
});

type CompletionParameters = z.output<typeof parameters>;

export const completions: Endpoint<CompletionParameters> = {
  parameters,
  idPrefix: "cmpl-",
  start: async (parameters, { services, id, signal }) => {
    const request = toGenerationRequest(services, toPrompt(parameters, services.engine), {
      id,
      parameters,
      maxTokensDefault: MAX_TOKENS_DEFAULT,
      topLogprobs: parameters.logprobs,
    });
    const generation = await startGeneration(services.engine, request, signal);
    return {
      whole: (head) => wholeCompletion(head, generation),
      chunks: (head) => completionChunks(head, generation),
    };
  },
};

/** Clients send one prompt as a string, as ids, or as an array of one of these; zod's unions would try every id. */
function toRawPrompt(value: unknown, context: z.RefinementCtx): RawPrompt {
  const prompt = isArrayOfOnePrompt(value) ? value[0] : value;
  if (typeof prompt === "string") return prompt;
  if (Array.isArray(prompt) && prompt.length > 0 && prompt.every(isTokenId)) return prompt;
  context.addIssue("one prompt: a string, an array of token ids, or an array of exactly one of these");
  return z.NEVER;
}

function isArrayOfOnePrompt(value: unknown): value is [unknown] {
  return (
    Array.isArray(value) && value.length === 1 && (typeof value[0] === "string" || Array.isArray(value[0]))
  );
}

function toPrompt({ prompt, prefix_len }: CompletionParameters, engine: EngineClient): Prompt {
  const promptIds = typeof prompt === "string" ? engine.text.encodePrompt(prompt) : prompt;
  if (prefix_len === undefined) return { promptIds };
  checkPrefixLength(prefix_len, promptIds.length, engine);
  return { promptIds, prefixLength: prefix_len };
}

function checkPrefixLength(prefixLength: number, promptTokens: number, { model }: EngineClient): void {
  const expected = model.isPrefixLm
    ? prefixLength > promptTokens && `at most the prompt's ${promptTokens} tokens`
    : "no such parameter for a causal model";
  if (!expected) return;
  throw refusal("prefix_len", `expected ${expected}, got ${describe(prefixLength)}`);
}
