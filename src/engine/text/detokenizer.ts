/**
 * Text of a generation, token by token, in whole characters.
 *
 * Each token is decoded together with the few before it, and what the window's text gained is the token's piece: the
 * idea of vLLM's and text-generation-inference's incremental decoders. A character whose bytes have not all come
 * decodes to one U+FFFD at the very end, so that one is held back and nothing else. Shortening the window may cut
 * through a character, but a UTF-8 decoder is back in step after three bytes and a visible token has one at least, so
 * the window's end reads as it would in the whole text.
 */
import type { DecodeOptions, Tokenizer } from "./tokenizer.ts";

const REPLACEMENT = "\ufffd";
const WINDOW_TOKENS_MAX = 16;
const CONTEXT_TOKENS = 8;

export class Detokenizer {
  readonly #tokenizer: Pick<Tokenizer, "decode" | "isVisible">;
  readonly #options: DecodeOptions;
  #window: number[];
  /** How much of the window's text has been given out. */
  #given: number;

  /**
   * `promptIds` are what the text continues: many tokenizers drop the space before the first word of a text, which
   * the first word of a continuation is not. It begins anew after a special token.
   */
  constructor(
    tokenizer: Pick<Tokenizer, "decode" | "isVisible">,
    promptIds: readonly number[] = [],
    options: DecodeOptions = {},
  ) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    const context = promptIds.slice(-CONTEXT_TOKENS);
    this.#window = context.slice(context.findLastIndex((id) => !tokenizer.isVisible(id)) + 1);
    this.#given = this.#finalLength();
  }

  /** The text that this token makes final; "" for special tokens that are left out, and while a character is incomplete. */
  push(id: number): string {
    if (!this.#tokenizer.isVisible(id, this.#options)) return "";
    this.#window.push(id);
    const text = this.#decode();
    const end = finalLength(text);
    const piece = text.slice(this.#given, end);
    this.#given = Math.max(this.#given, end);
    if (this.#window.length >= WINDOW_TOKENS_MAX) this.#shorten();
    return piece;
  }

  /** What was held back, at the end of the generation. */
  flush(): string {
    const rest = this.#decode().slice(this.#given);
    this.#window = [];
    this.#given = 0;
    return rest;
  }

  #shorten(): void {
    this.#window = this.#window.slice(-CONTEXT_TOKENS);
    this.#given = this.#finalLength();
  }

  #finalLength(): number {
    return finalLength(this.#decode());
  }

  #decode(): string {
    return this.#tokenizer.decode(this.#window, this.#options);
  }
}

function finalLength(text: string): number {
  return text.endsWith(REPLACEMENT) ? text.length - 1 : text.length;
}
