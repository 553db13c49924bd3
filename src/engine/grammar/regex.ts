/**
 * Regular expressions as data, in the part of JavaScript's syntax that a grammar can express: no look-around, no
 * back-references, no word boundaries. A pattern is of the whole text, so anchors may stand at its ends and mean nothing.
 */
import { REGEX_CHARS_MAX, REGEX_REPEATS_MAX } from "../../limits.ts";
import { CODE_POINT_MAX, complement, type Range, union } from "./ebnf.ts";

export type RegexNode =
  /** One character of the ranges. */
  | { type: "set"; ranges: readonly Range[] }
  | { type: "sequence"; items: readonly RegexNode[] }
  | { type: "choice"; items: readonly RegexNode[] }
  | { type: "repeat"; item: RegexNode; min: number; max: number | null };

/** Why a pattern cannot be followed: "expected ..., got ...". */
export class RegexError extends Error {
  override name = "RegexError";
}

/** Throws `RegexError`. */
export function parseRegex(pattern: string): RegexNode {
  if (pattern.length > REGEX_CHARS_MAX)
    throw new RegexError(
      `expected a pattern of at most ${REGEX_CHARS_MAX} characters, got ${pattern.length}`,
    );
  return new Parser(pattern).parse();
}

const digits: Range[] = [[0x30, 0x39]];
const wordCharacters: Range[] = [...digits, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]];
/** Of ASCII, as in RE2: JavaScript's others cannot be left out of a set. */
const spaces: Range[] = [
  [0x09, 0x0d],
  [0x20, 0x20],
];
const lineEnds: Range[] = [
  [0x0a, 0x0a],
  [0x0d, 0x0d],
];

const classes = new Map<string, Range[]>([
  ["d", digits],
  ["D", complement(digits)],
  ["w", wordCharacters],
  ["W", complement(wordCharacters)],
  ["s", spaces],
  ["S", complement(spaces)],
]);

const controls = new Map([
  ["n", 0x0a],
  ["r", 0x0d],
  ["t", 0x09],
  ["f", 0x0c],
  ["v", 0x0b],
  ["0", 0x00],
]);

class Parser {
  readonly #characters: readonly string[];
  #at = 0;
  #depth = 0;

  constructor(pattern: string) {
    this.#characters = Array.from(pattern);
  }

  parse(): RegexNode {
    const node = this.#choice(true);
    if (this.#at < this.#characters.length)
      throw this.#error("no closing parenthesis without its opening one");
    return node;
  }

  get #next(): string | undefined {
    return this.#characters[this.#at];
  }

  #rest(length: number): string {
    return this.#characters.slice(this.#at, this.#at + length).join("");
  }

  #take(text: string): boolean {
    if (this.#rest(text.length) !== text) return false;
    this.#at += text.length;
    return true;
  }

  #error(expected: string): RegexError {
    const got = this.#next === undefined ? "its end" : `"${this.#rest(8)}"`;
    return new RegexError(`expected ${expected}, got ${got} at character ${this.#at + 1}`);
  }

  /** `isStart`: nothing comes before it. */
  #choice(isStart: boolean): RegexNode {
    const items = [this.#sequence(isStart)];
    while (this.#take("|")) items.push(this.#sequence(isStart));
    return items.length === 1 ? items[0] : { type: "choice", items };
  }

  #sequence(isStart: boolean): RegexNode {
    const items: RegexNode[] = [];
    while (this.#next !== undefined && this.#next !== "|" && this.#next !== ")") {
      if (this.#next === "^" || this.#next === "$") this.#anchor(isStart && items.length === 0);
      else items.push(this.#repeats(this.#atom(isStart && items.length === 0)));
    }
    return items.length === 1 ? items[0] : { type: "sequence", items };
  }

  #anchor(isStart: boolean): void {
    const after = this.#characters.slice(this.#at + 1);
    const isEnd = after.every((character) => character === ")") || (this.#depth === 0 && after[0] === "|");
    if (this.#next === "^" ? !isStart : !isEnd) throw this.#error("anchors at the ends of the pattern only");
    this.#at++;
  }

  #atom(isStart: boolean): RegexNode {
    if (this.#take("(")) return this.#group(isStart);
    if (this.#take("[")) return { type: "set", ranges: this.#class() };
    if (this.#take(".")) return { type: "set", ranges: complement(lineEnds) };
    if (this.#take("\\")) return { type: "set", ranges: this.#escape() };
    if ("*+?{".includes(this.#next ?? "")) throw this.#error("something to repeat");
    return { type: "set", ranges: [single(this.#characters[this.#at++])] };
  }

  #group(isStart: boolean): RegexNode {
    if (this.#take("?") && !this.#take(":") && !this.#takeName()) {
      this.#at--;
      throw this.#error("groups that only group (no look-around, no flags)");
    }
    this.#depth++;
    const node = this.#choice(isStart);
    this.#depth--;
    if (!this.#take(")")) throw this.#error("a closing parenthesis");
    return node;
  }

  /** `<name>`, or Python's `P<name>`. */
  #takeName(): boolean {
    const [name] = /^P?<[A-Za-z_]\w*>/.exec(this.#rest(64)) ?? [];
    return name !== undefined && this.#take(name);
  }

  #repeats(item: RegexNode): RegexNode {
    const bounds = this.#bounds();
    if (!bounds) return item;
    const [min, max] = bounds;
    if ((max ?? min) > REGEX_REPEATS_MAX || (max !== null && max < min)) {
      throw this.#error(`repetitions in order and of at most ${REGEX_REPEATS_MAX} before this`);
    }
    // Which match is found first makes no difference.
    this.#take("?");
    if ("*+?{".includes(this.#next ?? " ")) throw this.#error("one repetition");
    return { type: "repeat", item, min, max };
  }

  #bounds(): [number, number | null] | null {
    if (this.#take("*")) return [0, null];
    if (this.#take("+")) return [1, null];
    if (this.#take("?")) return [0, 1];
    const [all, min, comma, max] = /^\{(\d+)(,?)(\d*)\}/.exec(this.#rest(24)) ?? [];
    if (all === undefined) {
      if (this.#next === "{") throw this.#error("a repetition like {2,3}");
      return null;
    }
    this.#take(all);
    if (!comma) return [Number(min), Number(min)];
    return [Number(min), max === "" ? null : Number(max)];
  }

  #class(): Range[] {
    const isNegated = this.#take("^");
    const ranges: Range[] = [];
    while (this.#next !== "]") {
      if (this.#next === undefined) throw this.#error("a closing bracket");
      ranges.push(...this.#classItem());
    }
    this.#at++;
    const set = isNegated ? complement(ranges) : union(ranges);
    if (set.length === 0) throw this.#error("a class of at least one character before this");
    return set;
  }

  #classItem(): Range[] {
    const low = this.#classCharacter();
    const isRange = this.#next === "-" && this.#characters[this.#at + 1] !== "]";
    if (!isRange || low.length > 1 || low[0][0] !== low[0][1]) return low;
    this.#at++;
    const high = this.#classCharacter();
    if (high.length > 1 || high[0][0] !== high[0][1] || high[0][0] < low[0][0])
      throw this.#error("a range in order before this");
    return [[low[0][0], high[0][0]]];
  }

  #classCharacter(): Range[] {
    if (this.#take("\\")) return this.#take("b") ? [[0x08, 0x08]] : this.#escape();
    if (this.#next === undefined) throw this.#error("a closing bracket");
    return [single(this.#characters[this.#at++])];
  }

  /** Behind the backslash. */
  #escape(): Range[] {
    const character = this.#next;
    if (character === undefined) throw this.#error("something behind the backslash");
    const ranges = classes.get(character);
    const control = controls.get(character);
    const hex = /^(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\})/.exec(this.#rest(10));
    if (hex) {
      this.#at += hex[0].length;
      return [[...point(parseInt(hex[1] ?? hex[2] ?? hex[3], 16))]];
    }
    if (!ranges && control === undefined && /^[A-Za-z0-9]$/.test(character))
      throw this.#error("an escape that a grammar can express");
    this.#at++;
    return ranges ?? [control === undefined ? single(character) : [control, control]];
  }
}

function single(character: string): Range {
  return point(character.codePointAt(0) ?? 0);
}

function point(value: number): Range {
  if (value > CODE_POINT_MAX || (value >= 0xd800 && value <= 0xdfff))
    throw new RegexError(`expected Unicode characters, got code point ${value.toString(16)}`);
  return [value, value];
}
