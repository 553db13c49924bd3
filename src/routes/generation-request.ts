/** From a prompt and a request's parameters to what the engine is asked for. */
import type { GenerationRequest } from "../engine/client.ts";
import { InvalidRequestError } from "../engine/errors.ts";
import type { CommonParameters } from "./parameters.ts";
import { toSampling } from "./sampling.ts";
import type { Services } from "./services.ts";

export interface Prompt {
  promptIds: readonly number[];
  prefixLength?: number;
}

export interface RequestOptions {
  id: string;
  parameters: CommonParameters;
  /** For a request that does not say how many tokens it wants; `Infinity` is the rest of the context. */
  maxTokensDefault: number;
  /** How many likely tokens to list beside each chosen one; undefined for no log-probabilities. */
  topLogprobs: number | undefined;
}

export function toGenerationRequest(
  { engine, randomSeed }: Services,
  prompt: Prompt,
  { id, parameters, maxTokensDefault, topLogprobs }: RequestOptions,
): GenerationRequest {
  const promptTokens = prompt.promptIds.length;
  if (promptTokens === 0) {
    throw new InvalidRequestError("Cannot accept prompt: expected at least one token, got none", "prompt");
  }
  const context = { engine, maxTokensDefault, randomSeed, promptTokens, topLogprobs };
  const sampling = toSampling(parameters, context);
  const { priority = 0, cache_salt: cacheSalt } = parameters;
  return { id, ...prompt, sampling, priority, cacheSalt };
}
