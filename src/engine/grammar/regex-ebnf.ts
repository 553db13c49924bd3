/** Regular expressions to EBNF: of plain text, or of what stands between the quotes of a JSON string. */
import { characterClass, complement, literal, oneOf, type Range, repeated, sequence, union } from "./ebnf.ts";
import { RegexError, type RegexNode } from "./regex.ts";

/** What matches one character of a set. Throws `RegexError` where there is none. */
type CharacterOf = (ranges: readonly Range[]) => string;

export function plainEbnf(node: RegexNode): string {
  return toEbnf(node, characterOf);
}

function characterOf(ranges: readonly Range[]): string {
  const found = characterClass(ranges);
  if (found !== null) return found;
  throw new RegexError("expected sets that have few characters beyond ASCII, or all of them, got another");
}

/** Throws `RegexError` for a pattern of control characters, which JSON spells in too many ways. */
export function jsonEbnf(node: RegexNode): string {
  return toEbnf(node, jsonCharacter);
}

function toEbnf(node: RegexNode, setOf: CharacterOf): string {
  switch (node.type) {
    case "set":
      return setOf(node.ranges);
    case "sequence":
      return sequence(node.items.map((item) => toEbnf(item, setOf)));
    case "choice":
      return oneOf(node.items.map((item) => toEbnf(item, setOf)));
    case "repeat":
      return repeated(toEbnf(node.item, setOf), node.min, node.max);
  }
}

/** Characters that a JSON string holds as they are. */
export const jsonPlain: readonly Range[] = complement([
  [0x00, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
]);

/** Those that have a short escape, by its letter. */
const shortEscapes: readonly (readonly [code: number, letter: string])[] = [
  [0x22, '"'],
  [0x5c, "\\"],
  [0x08, "b"],
  [0x09, "t"],
  [0x0a, "n"],
  [0x0c, "f"],
  [0x0d, "r"],
];

function jsonCharacter(ranges: readonly Range[]): string {
  const has = (code: number) => ranges.some(([low, high]) => low <= code && code <= high);
  const plain = intersection(ranges, jsonPlain);
  const letters = shortEscapes.filter(([code]) => has(code)).map(([, letter]) => letter.charCodeAt(0));
  const escapes = union(letters.map((code): Range => [code, code]));
  const items = [
    ...(plain.length > 0 ? [characterOf(plain)] : []),
    ...(escapes.length > 0 ? [`${literal("\\")} ${characterOf(escapes)}`] : []),
  ];
  if (items.length === 0)
    throw new RegexError("expected characters that JSON can hold, got control characters");
  return oneOf(items);
}

function intersection(a: readonly Range[], b: readonly Range[]): Range[] {
  return complement([...complement(a), ...complement(b)]);
}
