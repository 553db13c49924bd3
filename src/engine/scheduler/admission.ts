/** Which requests can be served at all, and how long their answers may get. */
import { ContextLengthError, InvalidRequestError } from "../errors.ts";
import type { KvManager } from "../kv-cache/kv-manager.ts";
import type { SchedulerLimits, SchedulerRequest } from "./request.ts";

/** Most tokens that a sequence can have computed when all KV blocks are its own. */
export function kvCapacity(kv: Pick<KvManager, "canEverHold">, maxModelLen: number): number {
  let holds = 0;
  let fails = maxModelLen + 1;
  while (fails - holds > 1) {
    const middle = Math.floor((holds + fails) / 2);
    if (kv.canEverHold(middle)) holds = middle;
    else fails = middle;
  }
  return holds;
}

/**
 * Throws `ContextLengthError` for a prompt that leaves no room for a token, in the model's context or the KV pool,
 * and `InvalidRequestError` for one that is malformed or has more answers than a batch has places.
 */
export function checkAdmissible(request: SchedulerRequest, limits: SchedulerLimits, capacity: number): void {
  const { id, promptIds, prefixLength, answers, maxTokens } = request;
  const refuse = (expected: string, found: number) =>
    new InvalidRequestError(`Cannot run request ${id}: expected ${expected}, got ${found}`);
  if (promptIds.length < 1) throw refuse("a prompt of at least one token", promptIds.length);
  if (prefixLength < 0 || prefixLength > promptIds.length)
    throw refuse(`a prefix of 0 to ${promptIds.length} tokens`, prefixLength);
  if (maxTokens < 1) throw refuse("at least one token to generate", maxTokens);
  if (answers.length < 1 || answers.length > limits.maxSequences)
    throw refuse(`1 to ${limits.maxSequences} answers`, answers.length);
  checkLength(request, limits.maxModelLen, "the model's context");
  checkLength(request, capacity, "all KV blocks together");
}

function checkLength({ id, promptIds }: SchedulerRequest, tokensMax: number, holder: string): void {
  if (promptIds.length + 1 <= tokensMax) return;
  throw new ContextLengthError(
    `Cannot run request ${id}: expected a prompt of at most ${tokensMax - 1} tokens, so that ${holder} can hold it and one more, got ${promptIds.length}`,
    "prompt",
  );
}

/** Most ids of an answer. The last id of an answer is never fed back, so it needs no KV. */
export function outputTokensMax(
  { promptIds, maxTokens }: SchedulerRequest,
  { maxModelLen }: SchedulerLimits,
  capacity: number,
): number {
  return Math.min(maxTokens, maxModelLen - promptIds.length, capacity + 1 - promptIds.length);
}
