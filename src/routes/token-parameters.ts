/** Parameters that name tokens, by id or by their text: what they look like, and whether the model has such tokens. */
import { z } from "zod";
import type { EngineClient, ModelCard, TextCodec } from "../engine/client.ts";
import { LOGIT_BIAS_ENTRIES_MAX } from "../limits.ts";
import { quote } from "./errors.ts";
import type { CommonParameters } from "./parameters.ts";
import { refusal } from "./validation.ts";

export function isTokenId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** An array of token ids; however many of them are wrong, it is one issue. */
export function tokenIds({ countMin, countMax }: { countMin: number; countMax: number }) {
  const isIds = (value: unknown) =>
    Array.isArray(value) && value.length >= countMin && value.length <= countMax && value.every(isTokenId);
  return z.custom<number[]>(isIds, { error: `an array of ${countMin} to ${countMax} token ids` });
}

const biasesError = `an object of at most ${LOGIT_BIAS_ENTRIES_MAX} token ids with numbers from -100 to 100`;

/** `{"50256": -100}`: what to add to the logit of a token. */
export const logitBias = z
  .custom<Record<string, number>>(isBiases, { error: biasesError })
  .transform((biases) => new Map(Object.entries(biases).map(([id, bias]) => [Number(id), bias])));

function isBiases(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const entries = Object.entries(value);
  return entries.length <= LOGIT_BIAS_ENTRIES_MAX && entries.every(isBias);
}

/** The id must be spelled in the one usual way, or two keys could mean one token. */
function isBias([key, bias]: [string, unknown]): boolean {
  const id = Number(key);
  return isTokenId(id) && String(id) === key && typeof bias === "number" && Math.abs(bias) <= 100;
}

/** Throws for the first id, in any parameter, that is not in the model's vocabulary. */
export function checkVocabulary(parameters: CommonParameters, model: ModelCard): void {
  const { logit_bias, allowed_token_ids = [], stop_token_ids = [] } = parameters;
  checkIds("logit_bias", logit_bias?.keys() ?? [], model);
  checkIds("allowed_token_ids", allowed_token_ids, model);
  checkIds("stop_token_ids", stop_token_ids, model);
}

export function checkIds(param: string, ids: Iterable<number>, { vocabSize }: ModelCard): void {
  for (const id of ids) {
    if (id >= vocabSize) throw refusal(param, `expected token ids from 0 to ${vocabSize - 1}, got ${id}`);
  }
}

/**
 * The id sequences of words that must not occur, at the beginning of a text and after a space, as vLLM forms them.
 * It leaves out the second where that has another number of ids; such a word could still occur, so here it is banned too.
 */
export function toBadWordIds(words: readonly string[], { text, model }: EngineClient): number[][] {
  if (words.length === 0) return [];
  const aroundIds = text.encodePrompt("");
  return words.flatMap((word) => {
    const spellings = [word.trimStart(), ` ${word.trimStart()}`];
    const [alone, spaced] = spellings.map((spelling) => encodeAlone(spelling, { text, aroundIds }));
    if (alone.length === 0) throw refusal("bad_words", `expected words with tokens, got ${quote(word)}`);
    checkIds("bad_words", [...alone, ...spaced], model);
    return spaced.length === 0 || String(spaced) === String(alone) ? [alone] : [alone, spaced];
  });
}

/** Ids of a text without those that the tokenizer puts around every prompt. */
function encodeAlone(
  spelling: string,
  { text, aroundIds }: { text: TextCodec; aroundIds: readonly number[] },
): number[] {
  const ids = text.encodePrompt(spelling);
  const firstOther = aroundIds.findIndex((id, index) => ids[index] !== id);
  const before = firstOther < 0 ? aroundIds.length : firstOther;
  return ids.slice(before, ids.length - (aroundIds.length - before));
}
