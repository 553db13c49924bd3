/** What a model can run: a request is checked against it before it is queued. Pure. */
import type { GenerationRequest, ModelCard } from "./client.ts";
import { ContextLengthError, InvalidRequestError } from "./errors.ts";
import type { GrammarSource } from "./grammar/protocol.ts";
import { toSource } from "./grammar/to-source.ts";

/** A request as the engine runs it. */
export interface AdmittedRequest extends GenerationRequest {
  /** Its grammar as it is compiled. */
  grammarSource?: GrammarSource;
}

/** The request with its token limit cut to the context and its grammar made ready. Throws if it can never run. */
export function admit(request: GenerationRequest, model: ModelCard): AdmittedRequest {
  checkPrompt(request, model);
  checkPrefix(request, model);
  checkPromptLogprobs(request, model);
  const { promptIds, sampling } = request;
  const room = model.maxModelLen - promptIds.length;
  const { grammar, ...rest } = sampling;
  return {
    ...request,
    sampling: { ...rest, maxTokens: Math.min(sampling.maxTokens, room) },
    ...(grammar && { grammarSource: toSource(grammar) }),
  };
}

function checkPrompt({ promptIds }: GenerationRequest, { maxModelLen, vocabSize }: ModelCard): void {
  if (promptIds.length === 0) {
    throw new InvalidRequestError("Cannot run an empty prompt: expected at least one token", "prompt");
  }
  if (promptIds.length >= maxModelLen) {
    throw new ContextLengthError(
      `Cannot run a prompt of ${promptIds.length} tokens: the context is ${maxModelLen} tokens, one of them for the answer`,
      "prompt",
    );
  }
  const unknown = promptIds.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (unknown !== undefined) {
    throw new InvalidRequestError(
      `Cannot run token id ${unknown}: expected an integer from 0 to ${vocabSize - 1}`,
      "prompt",
    );
  }
}

/** A token that sees its own future is not foretold: its log-probability would be no such thing. */
function checkPromptLogprobs(request: GenerationRequest, { isPrefixLm }: ModelCard): void {
  const { prefixLength = isPrefixLm ? request.promptIds.length : 0, sampling } = request;
  if (sampling.promptLogprobs === undefined) return;
  if (request.wantsMeanState)
    throw new InvalidRequestError(
      "Cannot read a prompt twice: expected log-probabilities or a mean state, got both",
    );
  if (prefixLength === 0) return;
  throw new InvalidRequestError(
    `Cannot give log-probabilities of the prompt: expected a causal one (prefix_len 0), got a bidirectional prefix of ${prefixLength} tokens, in which each token sees itself and its future`,
    "prompt_logprobs",
  );
}

function checkPrefix({ promptIds, prefixLength = 0 }: GenerationRequest, { isPrefixLm }: ModelCard): void {
  const most = isPrefixLm ? promptIds.length : 0;
  if (Number.isInteger(prefixLength) && prefixLength >= 0 && prefixLength <= most) return;
  const expected = isPrefixLm ? `0 to ${most}, the prompt's tokens` : "0 for a causal model";
  throw new InvalidRequestError(
    `Cannot use a prefix of ${prefixLength} tokens: expected ${expected}`,
    "prefix_len",
  );
}
