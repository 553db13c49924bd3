/** From a request's parameters to the sampling that the engine is asked for. */
import type { EngineClient, SamplingParams } from "../engine/client.ts";
import type { CommonParameters } from "./parameters.ts";
import { checkVocabulary, toBadWordIds } from "./token-parameters.ts";
import { refusal } from "./validation.ts";

interface SamplingContext {
  engine: EngineClient;
  /** For a request that does not say how many tokens it wants; the rest of the context bounds it. */
  maxTokensDefault: number;
  randomSeed: () => bigint;
  promptTokens: number;
  /** How many likely tokens to list beside each chosen one; undefined for none at all. */
  topLogprobs: number | undefined;
  /** The same beside each of the prompt's. */
  promptLogprobs: number | undefined;
}

/** Every field of the sampling: the request's own, or else the checkpoint's, or else the API's. */
export function toSampling(parameters: CommonParameters, context: SamplingContext): SamplingParams {
  const { engine, randomSeed, topLogprobs, promptLogprobs } = context;
  const { temperature, topP, topK, minP } = engine.model.defaultSampling;
  checkVocabulary(parameters, engine.model);
  return {
    ...toLength(parameters, context),
    temperature: parameters.temperature ?? temperature,
    topP: parameters.top_p ?? topP,
    topK: Math.max(0, parameters.top_k ?? topK),
    minP: parameters.min_p ?? minP,
    seed: parameters.seed ?? randomSeed(),
    n: parameters.n ?? 1,
    stop: parameters.stop ?? [],
    includeStop: parameters.include_stop_str_in_output ?? false,
    showSpecialTokens: parameters.skip_special_tokens === false,
    stopTokenIds: parameters.stop_token_ids ?? [],
    ignoreEos: parameters.ignore_eos ?? false,
    allowedTokenIds: parameters.allowed_token_ids,
    penalties: toPenalties(parameters, engine),
    logprobs: topLogprobs,
    promptLogprobs,
  };
}

function toLength(
  parameters: CommonParameters,
  { engine, maxTokensDefault, promptTokens }: SamplingContext,
): Pick<SamplingParams, "minTokens" | "maxTokens"> {
  const { max_tokens, max_completion_tokens = max_tokens, min_tokens: minTokens = 0 } = parameters;
  const tokensLeft = engine.model.maxModelLen - promptTokens;
  // At least 1, so that a prompt that fills the context is the engine's to refuse, in one place.
  const maxTokens = max_completion_tokens ?? Math.max(1, Math.min(maxTokensDefault, tokensLeft));
  if (minTokens > maxTokens && tokensLeft > 0) {
    throw refusal("min_tokens", `expected at most ${maxTokens}, the most tokens generated, got ${minTokens}`);
  }
  return { minTokens, maxTokens };
}

function toPenalties(parameters: CommonParameters, engine: EngineClient): SamplingParams["penalties"] {
  return {
    presence: parameters.presence_penalty ?? 0,
    frequency: parameters.frequency_penalty ?? 0,
    repetition: parameters.repetition_penalty ?? 1,
    logitBias: parameters.logit_bias ?? new Map<number, number>(),
    badWords: toBadWordIds(parameters.bad_words ?? [], engine),
  };
}
