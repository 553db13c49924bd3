/** Tokens of an answer as clients see them: by their text and where that begins. */
import { setImmediate } from "node:timers/promises";
import type { AnswerEvent, TextCodec, TokenLogprobs } from "../engine/client.ts";

export interface NamedToken {
  id: number;
  /** U+FFFD where the token is but a part of a character; "" where it is special. */
  text: string;
  logprob: number;
  rank: number;
}

export interface NamedLogprobs {
  chosen: NamedToken;
  /** The most likely tokens in order. */
  top: NamedToken[];
  /** Unicode characters of the answer before the token, or before the character that it is a part of. */
  offset: number;
}

/** An engine event whose log-probabilities have names; none unless the request asked for them. */
export type NamedEvent = AnswerEvent & { tokens: NamedLogprobs[] };

interface NameOptions {
  text: TextCodec;
  promptIds: readonly number[];
  /** Special tokens have their spelling for a text, and not none. */
  showSpecialTokens: boolean;
}

export async function* nameTokens(
  events: AsyncIterable<AnswerEvent>,
  { choiceCount, ...options }: NameOptions & { choiceCount: number },
): AsyncGenerator<NamedEvent, void, void> {
  const last = options.promptIds.slice(-1);
  const namers = Array.from({ length: choiceCount }, () => new TokenNamer(last, options));
  for await (const event of events) {
    const logprobs = event.type === "text" ? (event.logprobs ?? []) : [];
    yield { ...event, tokens: logprobs.map((entry) => namers[event.choice].name(entry)) };
  }
}

/** Tokens of a prompt that are named before others get their turn. */
const NAMED_AT_ONCE = 64;

/**
 * All tokens of a prompt; `logprobs` are of each but the first, which is as likely as can be, nothing being before it.
 * Offsets count from the beginning of the prompt's own text.
 */
export async function namePrompt(
  logprobs: readonly TokenLogprobs[],
  options: NameOptions,
): Promise<NamedLogprobs[]> {
  const namer = new TokenNamer([], options);
  const named = [namer.name({ chosen: { id: options.promptIds[0], logprob: 0, rank: 1 }, top: [] })];
  for (let start = 0; start < logprobs.length; start += NAMED_AT_ONCE) {
    if (start > 0) await setImmediate();
    for (const entry of logprobs.slice(start, start + NAMED_AT_ONCE)) named.push(namer.name(entry));
  }
  return named;
}

const REPLACEMENT = "\ufffd";
/** Bytes of a character at most, so tokens that it can be cut into. */
const PARTS_MAX = 4;

/**
 * The tokens of one answer, which must be told in order.
 *
 * A token is decoded behind the one before it, since many tokenizers drop the space of the first word of a text.
 */
class TokenNamer {
  readonly #decode: (ids: readonly number[]) => string;
  /** The last token that ended a character, if any, and those since, which are parts of the next one. */
  #whole: readonly number[];
  #parts: number[] = [];
  #offset = 0;

  /** `before` is what the first token is decoded behind: a token or none. */
  constructor(before: readonly number[], { text, showSpecialTokens }: NameOptions) {
    this.#decode = (ids) => text.decode(ids, { skipSpecialTokens: !showSpecialTokens });
    this.#whole = before;
  }

  name({ chosen, top }: TokenLogprobs): NamedLogprobs {
    const offset = this.#offset;
    const named = (token: TokenLogprobs["chosen"]): NamedToken => {
      // Behind the parts of a character a token would be read as one of them.
      const text = this.#parts.length > 0 ? this.#decode([token.id]) : this.#textOf([token.id]);
      return { ...token, text };
    };
    const tokens = { chosen: named(chosen), top: top.map(named), offset };
    this.#advance(chosen.id);
    return tokens;
  }

  #advance(id: number): void {
    this.#parts.push(id);
    const text = this.#textOf(this.#parts);
    if (text.endsWith(REPLACEMENT) && this.#parts.length < PARTS_MAX) return;
    this.#offset += [...text].length;
    this.#whole = [id];
    this.#parts = [];
  }

  /** What `ids` add to the text that ends with the last whole token. */
  #textOf(ids: readonly number[]): string {
    const before = this.#decode(this.#whole);
    const text = this.#decode([...this.#whole, ...ids]);
    return text.startsWith(before) ? text.slice(before.length) : this.#decode(ids);
  }
}
