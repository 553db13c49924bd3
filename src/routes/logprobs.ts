/** Log-probabilities in the two shapes of OpenAI's API. */
import type { NamedLogprobs, NamedToken } from "./token-names.ts";

/** JSON has no -Infinity; this is what OpenAI and vLLM write for a token that cannot be. */
const LOGPROB_MIN = -9999;

/** `logprobs` of a chat's choice. */
export function chatLogprobs(tokens: readonly NamedLogprobs[]): object {
  return { content: chatTokens(tokens), refusal: null };
}

export function chatTokens(tokens: readonly NamedLogprobs[]): object[] {
  return tokens.map(({ chosen, top }) => ({ ...chatToken(chosen), top_logprobs: top.map(chatToken) }));
}

function chatToken({ text, logprob }: NamedToken): object {
  return { token: text, logprob: finite(logprob), bytes: bytesOf(text) };
}

/** `logprobs` of a completion's choice: parallel arrays. The first token of a text has nothing that foretells it. */
export function completionLogprobs(tokens: readonly NamedLogprobs[], { isFirstOfText = false } = {}): object {
  const isKnown = (index: number) => index > 0 || !isFirstOfText;
  return {
    tokens: tokens.map(({ chosen }) => chosen.text),
    token_logprobs: tokens.map(({ chosen }, index) => (isKnown(index) ? finite(chosen.logprob) : null)),
    top_logprobs: tokens.map((token, index) => (isKnown(index) ? likelyTexts(token) : null)),
    text_offset: tokens.map(({ offset }) => offset),
  };
}

/** `prompt_logprobs` in vLLM's shape: of each token but the first, itself and the most likely ones by id. */
export function promptLogprobs(tokens: readonly NamedLogprobs[], topCount: number): (object | null)[] {
  return tokens.map(({ chosen, top }, index) => {
    if (index === 0) return null;
    const entries = [...top.slice(0, topCount), chosen].map(({ id, logprob, rank, text }) => {
      return [id, { logprob: finite(logprob), rank, decoded_token: text }] as const;
    });
    return Object.fromEntries(entries);
  });
}

/** Always has the chosen token, as OpenAI promises. Of tokens with equal texts the most likely counts. */
function likelyTexts({ chosen, top }: NamedLogprobs): object {
  const logprobs = new Map<string, number>();
  for (const { text, logprob } of [...top, chosen]) {
    if (!logprobs.has(text)) logprobs.set(text, finite(logprob));
  }
  return Object.fromEntries(logprobs);
}

/** UTF-8; null where the text does not tell the bytes: for a part of a character. */
function bytesOf(text: string): number[] | null {
  return text.includes("\ufffd") ? null : [...new TextEncoder().encode(text)];
}

function finite(logprob: number): number {
  return Math.max(logprob, LOGPROB_MIN);
}
