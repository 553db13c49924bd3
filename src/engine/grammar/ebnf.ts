/** EBNF as xgrammar reads it: literals, character classes, and rules under names that are made here. */

/** Code points from `low` to `high`, both included. */
export type Range = readonly [low: number, high: number];

export const CODE_POINT_MAX = 0x10ffff;

/** Matches exactly this text; "" is the empty text. */
export function literal(text: string): string {
  return `"${Array.from(text, (character) => escaped(character.codePointAt(0) ?? 0)).join("")}"`;
}

/** Matches one character of the ranges, of which there must be one. */
export function characterClass(ranges: readonly Range[]): string {
  const parts = ranges.map(([low, high]) =>
    low === high ? escaped(low) : `${escaped(low)}-${escaped(high)}`,
  );
  return `[${parts.join("")}]`;
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
