/**
 * The special tokens of a vocabulary as spellings to be found in text.
 *
 * Owns the rule of what counts as a special token: leftmost first, the longest at a place, then the token's own
 * `single_word`, `lstrip` and `rstrip` flags, as Hugging Face tokenizers finds them. One difference: a token marked
 * `normalized` is looked for in the text as written, not in the normalised text. Knows nothing of the vocabulary's other tokens.
 */

export interface SpecialToken {
  id: number;
  content: string;
  /** Swallows white space before it. */
  lstrip: boolean;
  /** Swallows white space after it. */
  rstrip: boolean;
  /** Counts only where no word character touches it. */
  singleWord: boolean;
}

/** A piece of a prompt: a special token, or text between two of them (never empty). */
export type Segment = { kind: "special"; id: number } | { kind: "text"; text: string };

interface TrieNode {
  token: SpecialToken | undefined;
  children: Map<number, TrieNode>;
}

// What the Rust crate's \w and \s mean; JavaScript's are narrower or different (U+0085, U+FEFF).
const wordCharacter = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const whiteSpace = /^\p{White_Space}$/u;

export class SpecialTokens {
  readonly #root: TrieNode = { token: undefined, children: new Map() };
  readonly #tails = new Set<string>();
  #longest = 0;

  constructor(tokens: Iterable<SpecialToken>) {
    for (const token of tokens) this.#add(token);
  }

  #add(token: SpecialToken): void {
    const { content } = token;
    let node = this.#root;
    for (let i = 0; i < content.length; i++) {
      const unit = content.charCodeAt(i);
      let child = node.children.get(unit);
      if (child === undefined) node.children.set(unit, (child = { token: undefined, children: new Map() }));
      node = child;
      if (i > 0) this.#tails.add(content.slice(i));
    }
    if (content.length > 0) node.token = token;
    this.#longest = Math.max(this.#longest, content.length);
  }

  /** The longest token spelled at `start`, its flags not considered. */
  longestAt(text: string, start: number): SpecialToken | undefined {
    let node: TrieNode | undefined = this.#root;
    let found: SpecialToken | undefined;
    for (let i = start; node !== undefined && i < text.length; i++) {
      node = node.children.get(text.charCodeAt(i));
      found = node?.token ?? found;
    }
    return found;
  }

  /** Whether the text from `start` to its end is the beginning of a longer token. */
  runsPastEnd(text: string, start: number): boolean {
    if (text.length - start >= this.#longest) return false;
    let node: TrieNode | undefined = this.#root;
    for (let i = start; node !== undefined && i < text.length; i++)
      node = node.children.get(text.charCodeAt(i));
    return node !== undefined && node.children.size > 0;
  }

  /** Whether the text begins with the end of a token whose beginning may stand before it. */
  beginsInside(text: string): boolean {
    const limit = Math.min(text.length, this.#longest - 1);
    for (let length = 1; length <= limit; length++) if (this.#tails.has(text.slice(0, length))) return true;
    return false;
  }

  /** Cuts text at the special tokens spelled in it. */
  split(text: string): Segment[] {
    const segments: Segment[] = [];
    let done = 0;
    for (let at = 0; at < text.length;) {
      const token = this.longestAt(text, at);
      if (token === undefined) {
        at++;
        continue;
      }
      const end = at + token.content.length;
      if (!token.singleWord || standsAlone(text, at, end)) {
        pushText(segments, text.slice(done, token.lstrip ? spaceStart(text, done, at) : at));
        segments.push({ kind: "special", id: token.id });
        done = token.rstrip ? spaceEnd(text, end) : end;
      }
      at = Math.max(end, done);
    }
    pushText(segments, text.slice(done));
    return segments;
  }
}

function pushText(segments: Segment[], text: string): void {
  if (text.length > 0) segments.push({ kind: "text", text });
}

function standsAlone(text: string, start: number, end: number): boolean {
  // Two code units hold any one character. Not /[...]$/u: V8 15.0 misses characters beyond U+FFFF there.
  const before = Array.from(text.slice(Math.max(0, start - 2), start)).at(-1) ?? "";
  return !wordCharacter.test(before) && !wordCharacter.test(text.slice(end, end + 2));
}

function spaceStart(text: string, least: number, end: number): number {
  let start = end;
  while (start > least && whiteSpace.test(text.charAt(start - 1))) start--;
  return start;
}

function spaceEnd(text: string, start: number): number {
  let end = start;
  while (end < text.length && whiteSpace.test(text.charAt(end))) end++;
  return end;
}
