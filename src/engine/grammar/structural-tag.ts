/** xgrammar's structural tags: the schemas and patterns in them are made grammars here, since xgrammar's own converter lets through what does not match. */
import { GRAMMAR_CHARS_MAX, SCHEMA_DEPTH_MAX } from "../../limits.ts";
import { checkEbnf } from "./ebnf-check.ts";
import { parseRegex } from "./regex.ts";
import { plainEbnf } from "./regex-ebnf.ts";
import { schemaEbnf, SchemaError } from "./schema-ebnf.ts";

/** The tag's JSON text. Throws `SchemaError` or `RegexError`. */
export function tagText(tag: Readonly<Record<string, unknown>>): string {
  const format = "format" in tag ? tag.format : tag;
  const text = JSON.stringify({ type: "structural_tag", format: translate(format, 0) });
  if (text.length > GRAMMAR_CHARS_MAX)
    throw new SchemaError(`expected at most ${GRAMMAR_CHARS_MAX} characters of grammar, got ${text.length}`);
  return text;
}

function translate(format: unknown, depth: number): unknown {
  if (depth > SCHEMA_DEPTH_MAX) throw new SchemaError(`expected at most ${SCHEMA_DEPTH_MAX} nested formats`);
  if (Array.isArray(format)) return format.map((item) => translate(item, depth + 1));
  if (typeof format !== "object" || format === null) return format;
  const { type, json_schema: schema, pattern, grammar } = format as Record<string, unknown>;
  if (type === "grammar") checkEbnf(String(grammar));
  if (type === "json_schema") return { type: "grammar", grammar: schemaEbnf(schema) };
  if (type === "regex")
    return { type: "grammar", grammar: `root ::= ${plainEbnf(parseRegex(String(pattern)))}\n` };
  return Object.fromEntries(Object.entries(format).map(([key, part]) => [key, translate(part, depth + 1)]));
}
