/**
 * The parameters that every generating endpoint takes, and the sampling that follows from them.
 *
 * A parameter that is not here is refused by name, never ignored: what was asked for is what is done. A parameter
 * that is not supported yet may be given its neutral value, since then nothing is asked for.
 */
import { z } from "zod";
import type { ModelCard, SamplingParams } from "../engine/client.ts";
import { InvalidRequestError } from "../engine/errors.ts";
import { STOP_STRING_CHARS_MAX, STOP_STRINGS_MAX, TEMPERATURE_MAX } from "../limits.ts";
import { describe, HttpError } from "./errors.ts";
import { array, integerFrom, numberBetween, object } from "./validation.ts";

const boolean = z.boolean({ error: "true or false" });

const topP = { error: "a number above 0 and at most 1" };

/** JSON.parse has rounded integers beyond 2^53 already, so the largest 64-bit ones arrive as 2^63. */
const seed = z
  .number({ error: "a 64-bit integer" })
  .refine((value) => Number.isInteger(value) && Math.abs(value) <= 2 ** 63, { error: "a 64-bit integer" })
  .transform((value) => BigInt.asUintN(64, BigInt(value)));

const stopError = `a string of 1 to ${STOP_STRING_CHARS_MAX} characters`;
const stopString = z
  .string({ error: stopError })
  .min(1, { error: stopError })
  .max(STOP_STRING_CHARS_MAX, { error: stopError });
const stop = z.preprocess(
  (value) => (typeof value === "string" ? [value] : value),
  array(stopString, STOP_STRINGS_MAX, "a string or an array of strings"),
);

/** Not supported: accepted with the value that asks for nothing, refused with any other. */
const neutral = {
  n: only(1),
  best_of: only(1),
  echo: only(false),
  logprobs: only(false),
  ignore_eos: only(false),
  min_tokens: only(0),
  presence_penalty: only(0),
  frequency_penalty: only(0),
  repetition_penalty: only(1),
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
  stream_options: object({ include_usage: boolean.optional() }).optional(),
  max_tokens: integerFrom(1).optional(),
  max_completion_tokens: integerFrom(1).optional(),
  temperature: numberBetween(0, TEMPERATURE_MAX).optional(),
  top_p: z.number(topP).gt(0, topP).max(1, topP).optional(),
  top_k: integerFrom(-1).optional(),
  min_p: numberBetween(0, 1).optional(),
  seed: seed.optional(),
  stop: stop.optional(),
  ...neutral,
  ...accounting,
};

export type CommonParameters = z.output<z.ZodObject<typeof commonParameters>>;

/** What no single parameter shows: an unknown model, or parameters that exclude each other. */
export function checkCommon(parameters: CommonParameters, model: ModelCard): void {
  const { max_tokens, max_completion_tokens = max_tokens } = parameters;
  if (parameters.model !== undefined) checkModel(parameters.model, model);
  if (parameters.stream_options && !parameters.stream) {
    throw refusal("stream_options", "expected stream to be true with it, got a request without");
  }
  if (max_tokens !== undefined && max_tokens !== max_completion_tokens) {
    throw refusal("max_tokens", `expected the value of max_completion_tokens, got ${max_tokens}`);
  }
}

/** Throws a 404 unless `name` is the model's. */
export function checkModel(name: string, model: ModelCard): void {
  if (name === model.id) return;
  const message = `Cannot find the model: expected ${describe(model.id)}, got ${describe(name)}`;
  throw new HttpError(404, message, { code: "model_not_found", param: "model" });
}

interface SamplingDefaults {
  /** For a request that does not say how many tokens it wants; the rest of the context bounds it. */
  maxTokens: number;
  randomSeed: () => bigint;
  promptTokens: number;
}

/** Every field of the sampling: the request's own, or else the checkpoint's, or else the API's. */
export function toSampling(
  parameters: CommonParameters,
  model: ModelCard,
  defaults: SamplingDefaults,
): SamplingParams {
  // At least 1, so that a prompt that fills the context is the engine's to refuse, in one place.
  const tokensLeft = Math.max(1, model.maxModelLen - defaults.promptTokens);
  const { temperature, topP, topK, minP } = model.defaultSampling;
  return {
    maxTokens:
      parameters.max_completion_tokens ?? parameters.max_tokens ?? Math.min(defaults.maxTokens, tokensLeft),
    temperature: parameters.temperature ?? temperature,
    topP: parameters.top_p ?? topP,
    topK: Math.max(0, parameters.top_k ?? topK),
    minP: parameters.min_p ?? minP,
    seed: parameters.seed ?? defaults.randomSeed(),
    stop: parameters.stop ?? [],
  };
}

function only<T extends number | boolean>(value: T) {
  return z.literal(value, { error: `${value}, as nothing else is supported` }).optional();
}

function refusal(param: string, reason: string): InvalidRequestError {
  return new InvalidRequestError(`Cannot accept ${param}: ${reason}`, param);
}
