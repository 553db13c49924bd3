/** Tokens of an answer as clients see them: by their text and where that begins. */
import type { AnswerEvent, TextCodec, TokenLogprobs } from "../engine/client.ts";

export interface NamedToken {
  /** U+FFFD where the token is but a part of a character; "" where it is special. */
  text: string;
  logprob: number;
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
  choiceCount: number;
}

export async function* nameTokens(
  events: AsyncIterable<AnswerEvent>,
  { text, promptIds, choiceCount }: NameOptions,
): AsyncGenerator<NamedEvent> {
  const namers = Array.from({ length: choiceCount }, () => new TokenNamer(text, promptIds.slice(-1)));
  for await (const event of events) {
    const logprobs = event.type === "text" ? (event.logprobs ?? []) : [];
    yield { ...event, tokens: logprobs.map((entry) => namers[event.choice].name(entry)) };
  }
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
  readonly #text: TextCodec;
  /** The last token that ended a character, if any, and those since, which are parts of the next one. */
  #whole: readonly number[];
  #parts: number[] = [];
  #offset = 0;

  constructor(text: TextCodec, lastPromptId: readonly number[]) {
    this.#text = text;
    this.#whole = lastPromptId;
  }

  name({ chosen, top }: TokenLogprobs): NamedLogprobs {
    const offset = this.#offset;
    const named = ({ id, logprob }: TokenLogprobs["chosen"]): NamedToken => {
      // Behind the parts of a character a token would be read as one of them.
      const text = this.#parts.length > 0 ? this.#text.decode([id]) : this.#textOf([id]);
      return { text, logprob };
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
    const before = this.#text.decode(this.#whole);
    const text = this.#text.decode([...this.#whole, ...ids]);
    return text.startsWith(before) ? text.slice(before.length) : this.#text.decode(ids);
  }
}
