/** What xgrammar reads wrongly in a client's own EBNF without a word: character classes beyond ASCII. */
import { SchemaError } from "./schema-place.ts";

/** Strings and comments, which are passed over, and classes. */
const token = /"(?:\\.|[^"\\\n])*"|#[^\n]*|\[(?:\\.|[^\]\\])*\]/gsu;
const beyondAscii = /[^\0-\x7f]|\\x[89a-fA-F]|\\u(?!00[0-7])|\\U(?!000000[0-7])/u;

/** Throws `SchemaError`. */
export function checkEbnf(text: string): void {
  for (const [found] of text.matchAll(token)) {
    if (!found.startsWith("[") || !beyondAscii.test(found)) continue;
    throw new SchemaError(
      `expected character classes of ASCII (others as alternatives: "é" | "ü"), got ${found.slice(0, 40)}`,
    );
  }
}
