/** What an answer shows of its prompt: tokens and their log-probabilities, in vLLM's fields. */
import type { EngineClient, TextCodec } from "../engine/client.ts";
import type { StartedPrompt } from "./generation.ts";
import { promptLogprobs } from "./logprobs.ts";
import type { CommonParameters } from "./parameters.ts";
import { namePrompt, type NamedLogprobs } from "./token-names.ts";

export interface PromptView {
  text: TextCodec;
  /** Most likely tokens that are listed beside each token of the prompt; undefined for no log-probabilities. */
  promptLogprobs: number | undefined;
  /** Ids are told, of prompt and answers. */
  showTokenIds: boolean;
  showSpecialTokens: boolean;
}

export function toPromptView(parameters: CommonParameters, { text }: EngineClient): PromptView {
  return {
    text,
    promptLogprobs: parameters.prompt_logprobs,
    showTokenIds: parameters.return_token_ids ?? false,
    showSpecialTokens: parameters.skip_special_tokens === false,
  };
}

/** The prompt's tokens with their log-probabilities; none unless the request asked for these. */
export async function namedPrompt(
  { ids, result }: StartedPrompt,
  { text, showSpecialTokens }: PromptView,
): Promise<readonly NamedLogprobs[]> {
  if (!result?.logprobs) return [];
  return namePrompt(result.logprobs, { text, promptIds: ids, showSpecialTokens });
}

export function promptFields(
  { ids }: StartedPrompt,
  named: readonly NamedLogprobs[],
  { promptLogprobs: topCount, showTokenIds }: PromptView,
): object {
  return {
    ...(topCount !== undefined && { prompt_logprobs: promptLogprobs(named, topCount) }),
    ...(showTokenIds && { prompt_token_ids: ids }),
  };
}
