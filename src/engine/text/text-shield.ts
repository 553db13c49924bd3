/**
 * Keeps special tokens in client text from being taken for the template's own.
 *
 * Where a special token begins in client text, its first character is replaced by a private-use mark that occurs in
 * none of the texts at hand; so the rendered prompt can be cut at the special tokens that the template wrote, and
 * the characters put back afterwards. White space and length stay as they were, so `trim` and slices work as ever.
 * Text that could complete a token together with its neighbours, at either edge, is marked as well.
 * Not covered: a template that builds a token around a whole client string, as in `'<|' + role + '|>'`.
 */
import { InvalidRequestError } from "../errors.ts";
import type { SpecialTokens } from "./special-tokens.ts";

const FIRST_MARK = 0xe000;
const LAST_MARK = 0xf8ff;

export class TextShield {
  readonly #specials: SpecialTokens;
  readonly #taken: ReadonlySet<string>;
  readonly #markOf = new Map<string, string>();
  readonly #originalOf = new Map<string, string>();
  #next = FIRST_MARK;

  /** `texts`: everything that can show up in the rendered prompt, and every special token's spelling. */
  constructor(specials: SpecialTokens, texts: Iterable<string>) {
    this.#specials = specials;
    const taken = new Set<string>();
    for (const text of texts) for (const mark of text.match(/[\ue000-\uf8ff]/g) ?? []) taken.add(mark);
    this.#taken = taken;
  }

  guard(text: string): string {
    let guarded = "";
    let done = 0;
    for (let at = 0; at < text.length; at++) {
      if (!this.#mustMark(text, at)) continue;
      guarded += text.slice(done, at) + this.#mark(text.charAt(at));
      done = at + 1;
    }
    return guarded + text.slice(done);
  }

  restore(text: string): string {
    if (this.#originalOf.size === 0) return text;
    return text.replace(/[\ue000-\uf8ff]/g, (mark) => this.#originalOf.get(mark) ?? mark);
  }

  #mustMark(text: string, at: number): boolean {
    if (this.#specials.longestAt(text, at) !== undefined) return true;
    const atEdge = this.#specials.runsPastEnd(text, at) || (at === 0 && this.#specials.beginsInside(text));
    // A template may trim white space at an edge only if it is left as it is.
    return atEdge && text.charAt(at).trim() !== "";
  }

  #mark(original: string): string {
    const known = this.#markOf.get(original);
    if (known !== undefined) return known;
    while (this.#taken.has(String.fromCharCode(this.#next))) this.#next++;
    if (this.#next > LAST_MARK) {
      throw new InvalidRequestError(
        "Cannot render the chat template: expected an unused private-use character, got messages that use all of them",
        "messages",
      );
    }
    const mark = String.fromCharCode(this.#next++);
    this.#markOf.set(original, mark);
    this.#originalOf.set(mark, original);
    return mark;
  }
}
