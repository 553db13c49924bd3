/** EBNF as xgrammar reads it: literals, character classes, and rules under names that are made here. */

/** Code points from `low` to `high`, both included. */
export type Range = readonly [low: number, high: number];

export const CODE_POINT_MAX = 0x10ffff;

/** Matches exactly this text; "" is the empty text. */
export function literal(text: string): string {
  return `"${Array.from(text, (character) => escaped(character.codePointAt(0) ?? 0)).join("")}"`;
}

/** Characters beyond ASCII that a set may list. */
const LISTED_MAX = 512;
const asciiMax = 0x7f;

/**
 * Matches one character of the ranges; null for a set that cannot be expressed. xgrammar 0.1.27 takes classes for ones of
 * bytes: right for ASCII, and for what is not in some of ASCII. Beyond that a set must be all there is, or list few.
 */
export function characterClass(ranges: readonly Range[]): string | null {
  const set = union(ranges);
  const ascii = clipped(set, 0, asciiMax);
  const beyond = clipped(set, asciiMax + 1, CODE_POINT_MAX);
  if (beyond.length === 0) return ascii.length > 0 ? `[${spelled(ascii)}]` : null;
  const isAll = String(beyond) === String(complement([[0, asciiMax]]));
  if (isAll) return `[^${spelled(clipped(complement(set), 0, asciiMax)) || "\\u0000"}]`;
  const listed = beyond.reduce((sum, [low, high]) => sum + high - low + 1, 0);
  if (listed > LISTED_MAX) return null;
  const literals = beyond.flatMap(([low, high]) =>
    Array.from({ length: high - low + 1 }, (_, index) => literal(String.fromCodePoint(low + index))),
  );
  return oneOf([...(ascii.length > 0 ? [`[${spelled(ascii)}]`] : []), ...literals]);
}

function clipped(ranges: readonly Range[], low: number, high: number): Range[] {
  const clip = ([from, to]: Range): Range => [Math.max(from, low), Math.min(to, high)];
  return ranges.map(clip).filter(([from, to]) => from <= to);
}

function spelled(ranges: readonly Range[]): string {
  return ranges
    .map(([low, high]) => (low === high ? escaped(low) : `${escaped(low)}-${escaped(high)}`))
    .join("");
}

function escaped(codePoint: number): string {
  const character = String.fromCodePoint(codePoint);
  if (/^[A-Za-z0-9_ ]$/.test(character)) return character;
  const hex = codePoint.toString(16);
  return codePoint <= 0xffff ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/** One of these, in parentheses where there are several. */
export function oneOf(items: readonly string[]): string {
  const different = [...new Set(items)];
  return different.length === 1 ? different[0] : `(${different.join(" | ")})`;
}

/** One behind the other. */
export function sequence(items: readonly string[]): string {
  return items.length === 0 ? literal("") : items.join(" ");
}

/** `item` from `min` to `max` times; null is without end. */
export function repeated(item: string, min: number, max: number | null): string {
  if (max === 0) return literal("");
  if (min === 1 && max === 1) return item;
  const group = `(${item})`;
  if (min === 0 && max === 1) return `${group}?`;
  if (max === null && min <= 1) return `${group}${min === 0 ? "*" : "+"}`;
  return `${group}{${min},${max ?? ""}}`;
}

/** The ranges in order, those that touch made one, as a set of code points. */
export function union(ranges: readonly Range[]): Range[] {
  const merged: [number, number][] = [];
  for (const [low, high] of ranges.toSorted((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last && low <= last[1] + 1) last[1] = Math.max(last[1], high);
    else merged.push([low, high]);
  }
  return merged;
}

/** All code points that are not in the ranges; surrogates are none. */
export function complement(ranges: readonly Range[]): Range[] {
  const gaps: Range[] = [];
  let next = 0;
  for (const [low, high] of union([...ranges, [0xd800, 0xdfff]])) {
    if (low > next) gaps.push([next, low - 1]);
    next = high + 1;
  }
  return next <= CODE_POINT_MAX ? [...gaps, [next, CODE_POINT_MAX]] : gaps;
}

/** The rules of a grammar. */
export class Rules {
  readonly #bodies = new Map<string, string>();
  #count = 0;

  /** A name for a rule that is defined later, since it may refer to itself. */
  reserve(): string {
    return `r${++this.#count}`;
  }

  define(name: string, body: string): string {
    this.#bodies.set(name, body);
    return name;
  }

  /** A rule that is made the first time it is asked for. */
  shared(name: string, body: () => string): string {
    if (!this.#bodies.has(name)) {
      this.#bodies.set(name, "");
      this.#bodies.set(name, body());
    }
    return name;
  }

  add(body: string): string {
    return this.define(this.reserve(), body);
  }

  /** The grammar whose answers match `root`. */
  text(root: string): string {
    return [`root ::= ${root}`, ...[...this.#bodies].map(([name, body]) => `${name} ::= ${body}`), ""].join(
      "\n",
    );
  }
}
