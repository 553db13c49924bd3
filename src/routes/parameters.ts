/**
 * The parameters that every generating endpoint takes.
 *
 * A parameter that is not here is refused by name, never ignored: what was asked for is what is done. A parameter
 * that is not supported may be given its neutral value, since then nothing is asked for.
 */
import { z } from "zod";
import type { ModelCard } from "../engine/client.ts";
import {
  ALLOWED_TOKEN_IDS_MAX,
  BAD_WORD_CHARS_MAX,
  BAD_WORDS_MAX,
  CACHE_SALT_CHARS_MAX,
  REPETITION_PENALTY_MAX,
  REQUEST_ID_CHARS_MAX,
  STOP_STRING_CHARS_MAX,
  STOP_STRINGS_MAX,
  STOP_TOKEN_IDS_MAX,
  TEMPERATURE_MAX,
  TOP_LOGPROBS_MAX,
} from "../limits.ts";
import { describe, HttpError } from "./errors.ts";
import { REQUEST_ID } from "./request-id.ts";
import { outputParameters } from "./output-format.ts";
import { logitBias, tokenIds } from "./token-parameters.ts";
import {
  array,
  boolean,
  integerBetween,
  integerFrom,
  numberBetween,
  object,
  only,
  refusal,
  stringUpTo,
} from "./validation.ts";

const topP = { error: "a number above 0 and at most 1" };

/** JSON.parse has rounded integers beyond 2^53 already, so the largest 64-bit ones arrive as 2^63. */
const seed = z
  .number({ error: "a 64-bit integer" })
  .refine((value) => Number.isInteger(value) && Math.abs(value) <= 2 ** 63, { error: "a 64-bit integer" })
  .transform((value) => BigInt.asUintN(64, BigInt(value)));

const stop = z.preprocess(
  (value) => (typeof value === "string" ? [value] : value),
  array(stringUpTo(STOP_STRING_CHARS_MAX), STOP_STRINGS_MAX, "a string or an array of strings"),
);

const badWord = stringUpTo(BAD_WORD_CHARS_MAX).refine((word) => word.trim() !== "", {
  error: "a string with more than white space",
});

/** What changes logits before a token is chosen, and which tokens end an answer. */
const choosing = {
  temperature: numberBetween(0, TEMPERATURE_MAX).optional(),
  top_p: z.number(topP).gt(0, topP).max(1, topP).optional(),
  top_k: integerFrom(-1).optional(),
  min_p: numberBetween(0, 1).optional(),
  seed: seed.optional(),
  presence_penalty: numberBetween(-2, 2).optional(),
  frequency_penalty: numberBetween(-2, 2).optional(),
  repetition_penalty: numberBetween(1 / REPETITION_PENALTY_MAX, REPETITION_PENALTY_MAX).optional(),
  logit_bias: logitBias.optional(),
  allowed_token_ids: tokenIds({ countMin: 1, countMax: ALLOWED_TOKEN_IDS_MAX }).optional(),
  bad_words: array(badWord, BAD_WORDS_MAX, "an array of strings").optional(),
  stop: stop.optional(),
  include_stop_str_in_output: boolean.optional(),
  stop_token_ids: tokenIds({ countMin: 0, countMax: STOP_TOKEN_IDS_MAX }).optional(),
  ignore_eos: boolean.optional(),
  min_tokens: integerFrom(0).optional(),
  max_tokens: integerFrom(1).optional(),
  max_completion_tokens: integerFrom(1).optional(),
  use_beam_search: only(false).optional(),
  length_penalty: only(1).optional(),
};

const requestIdError = `a string of 1 to ${REQUEST_ID_CHARS_MAX} letters, digits and _ . : -`;

/** What is told beside the text, and how the text is made. */
const telling = {
  request_id: z.string({ error: requestIdError }).regex(REQUEST_ID, { error: requestIdError }).optional(),
  prompt_logprobs: integerBetween(0, TOP_LOGPROBS_MAX).optional(),
  return_token_ids: boolean.optional(),
  skip_special_tokens: boolean.optional(),
  spaces_between_special_tokens: only(true).optional(),
};

/** For the client's own accounting: accepted and of no effect, as OpenAI's clients expect. */
const accounting = {
  user: z.unknown().optional(),
  metadata: z.unknown().optional(),
  store: z.unknown().optional(),
  service_tier: z.unknown().optional(),
};

export const commonParameters = {
  model: z.string({ error: "the name of a model" }).optional(),
  stream: boolean.optional(),
  stream_options: object({
    include_usage: boolean.optional(),
    continuous_usage_stats: boolean.optional(),
  }).optional(),
  n: integerFrom(1).optional(),
  priority: z.int({ error: "an integer" }).optional(),
  cache_salt: stringUpTo(CACHE_SALT_CHARS_MAX).optional(),
  truncate_prompt_tokens: integerFrom(-1).optional(),
  ...choosing,
  ...telling,
  ...outputParameters,
  ...accounting,
};

export type CommonParameters = z.output<z.ZodObject<typeof commonParameters>>;

/** What no single parameter shows: what this model has not, or parameters that exclude each other. */
export function checkCommon(parameters: CommonParameters, model: ModelCard): void {
  const { n = 1, max_tokens, max_completion_tokens = max_tokens } = parameters;
  if (parameters.model !== undefined) checkModel(parameters.model, model);
  if (parameters.stream_options && !parameters.stream) {
    throw refusal("stream_options", "expected stream to be true with it, got a request without");
  }
  if (parameters.prompt_logprobs !== undefined && parameters.stream) {
    throw refusal("prompt_logprobs", "expected stream to be false with it, got a stream");
  }
  if (max_tokens !== undefined && max_tokens !== max_completion_tokens) {
    throw refusal("max_tokens", `expected the value of max_completion_tokens, got ${max_tokens}`);
  }
  if (n > model.maxChoices) {
    throw refusal("n", `expected an integer from 1 to ${model.maxChoices}, got ${n}`);
  }
}

/** Throws a 404 unless `name` is the model's. */
export function checkModel(name: string, model: ModelCard): void {
  if (name === model.id) return;
  const message = `Cannot find the model: expected ${describe(model.id)}, got ${describe(name)}`;
  throw new HttpError(404, message, { code: "model_not_found", param: "model" });
}
