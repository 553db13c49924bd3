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

/** `logprobs` of a completion's choice: parallel arrays. */
export function completionLogprobs(tokens: readonly NamedLogprobs[]): object {
  return {
    tokens: tokens.map(({ chosen }) => chosen.text),
    token_logprobs: tokens.map(({ chosen }) => finite(chosen.logprob)),
    top_logprobs: tokens.map(likelyTexts),
    text_offset: tokens.map(({ offset }) => offset),
  };
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
