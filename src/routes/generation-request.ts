/** From a prompt and a request's parameters to what the engine is asked for. */
import type { GenerationRequest, Grammar, ModelCard } from "../engine/client.ts";
import { InvalidRequestError } from "../engine/errors.ts";
import { describe } from "./errors.ts";
import type { CommonParameters } from "./parameters.ts";
import { toSampling } from "./sampling.ts";
import type { Services } from "./services.ts";
import { refusal } from "./validation.ts";

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
  /** What an endpoint's own parameter asks of the prompt's tokens, beside `prompt_logprobs`. */
  promptLogprobs?: { param: string; topCount: number | undefined };
  /** What the answer must match. */
  grammar?: Grammar;
}

export function toGenerationRequest(
  { engine, randomSeed }: Services,
  prompt: Prompt,
  { id, parameters, maxTokensDefault, topLogprobs, promptLogprobs, grammar }: RequestOptions,
): GenerationRequest {
  const { model } = engine;
  const promptIds = truncated(prompt.promptIds, parameters, model);
  const promptTokens = promptIds.length;
  const prefixLength = prefixOf(prompt, promptTokens, model);
  if (promptTokens === 0) {
    throw new InvalidRequestError("Cannot accept prompt: expected at least one token, got none", "prompt");
  }
  const asked = [
    { param: "prompt_logprobs", topCount: parameters.prompt_logprobs },
    ...(promptLogprobs ? [promptLogprobs] : []),
  ].filter(({ topCount }) => topCount !== undefined);
  if (asked.length > 0) checkCausal(asked[0].param, prefixLength, model);
  const sampling = toSampling(parameters, {
    engine,
    maxTokensDefault,
    randomSeed,
    promptTokens,
    topLogprobs,
    promptLogprobs: asked.length > 0 ? Math.max(...asked.map(({ topCount = 0 }) => topCount)) : undefined,
  });
  const { priority = 0, cache_salt: cacheSalt } = parameters;
  return {
    id,
    promptIds,
    ...(prefixLength === undefined ? {} : { prefixLength }),
    sampling: { ...sampling, grammar },
    priority,
    cacheSalt,
  };
}

/** The last of the ids, as many as `truncate_prompt_tokens` says; -1 leaves room for the answer. */
export function truncated(
  ids: readonly number[],
  {
    truncate_prompt_tokens: asked,
    max_tokens,
    max_completion_tokens = max_tokens,
  }: Partial<CommonParameters>,
  { maxModelLen }: ModelCard,
): readonly number[] {
  if (asked === undefined) return ids;
  if (asked === 0 || asked > maxModelLen) {
    const expected = `expected -1 or an integer from 1 to ${maxModelLen}`;
    throw refusal("truncate_prompt_tokens", `${expected}, got ${asked}`);
  }
  const count = asked > 0 ? asked : Math.max(1, maxModelLen - (max_completion_tokens ?? 1));
  return ids.slice(-count);
}

/** How much of the bidirectional prefix is left of it when the prompt has lost its first tokens. */
function prefixOf(
  { promptIds, prefixLength }: Prompt,
  promptTokens: number,
  model: ModelCard,
): number | undefined {
  if (prefixLength === undefined) return undefined;
  checkPrefixLength(prefixLength, promptIds.length, model);
  return Math.max(0, prefixLength - (promptIds.length - promptTokens));
}

function checkPrefixLength(prefixLength: number, promptTokens: number, { isPrefixLm }: ModelCard): void {
  const expected = isPrefixLm
    ? prefixLength > promptTokens && `at most the prompt's ${promptTokens} tokens`
    : "no such parameter for a causal model";
  if (!expected) return;
  throw refusal("prefix_len", `expected ${expected}, got ${describe(prefixLength)}`);
}

/** The engine would refuse it as well, but does not know who asked. */
function checkCausal(param: string, prefixLength: number | undefined, { isPrefixLm }: ModelCard): void {
  if (!isPrefixLm || prefixLength === 0) return;
  throw refusal(
    param,
    "expected a causal prompt (prefix_len 0 of /v1/completions) where the prompt's own log-probabilities are wanted, got a bidirectional one, in which each token sees itself and its future",
  );
}
