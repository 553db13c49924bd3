/** From what a request asks for to what a matcher compiles. Pure. */
import { CHOICES_MAX, GRAMMAR_CHARS_MAX } from "../../limits.ts";
import type { Grammar } from "../client.ts";
import { InvalidRequestError } from "../errors.ts";
import { literal, oneOf } from "./ebnf.ts";
import { checkEbnf } from "./ebnf-check.ts";
import type { GrammarSource } from "./protocol.ts";
import { parseRegex, RegexError } from "./regex.ts";
import { plainEbnf } from "./regex-ebnf.ts";
import { schemaEbnf, SchemaError } from "./schema-ebnf.ts";
import { tagText } from "./structural-tag.ts";

/** Throws `InvalidRequestError` for what no grammar can express. */
export function toSource(grammar: Grammar): GrammarSource {
  const { param = null } = grammar;
  try {
    const source: GrammarSource = { ...sourceOf(grammar), param };
    if (source.text.length > GRAMMAR_CHARS_MAX)
      throw new SchemaError(
        `expected one of at most ${GRAMMAR_CHARS_MAX} characters, got ${source.text.length}`,
      );
    return source;
  } catch (error) {
    if (!(error instanceof RegexError || error instanceof SchemaError)) throw error;
    throw new InvalidRequestError(`Cannot follow the ${namesOf[grammar.type]}: ${error.message}`, param);
  }
}

const namesOf: Record<Grammar["type"], string> = {
  "json-object": "grammar",
  "json-schema": "schema",
  regex: "pattern",
  choice: "choices",
  ebnf: "grammar",
  "structural-tag": "structural tag",
};

function sourceOf(grammar: Grammar): Omit<GrammarSource, "param"> {
  switch (grammar.type) {
    case "json-object":
      return { kind: "ebnf", text: schemaEbnf({ type: "object" }) };
    case "json-schema":
      return { kind: "ebnf", text: schemaEbnf(grammar.schema) };
    case "regex":
      return { kind: "ebnf", text: `root ::= ${plainEbnf(parseRegex(grammar.pattern))}\n` };
    case "choice":
      return { kind: "ebnf", text: `root ::= ${choiceEbnf(grammar.choices)}\n` };
    case "ebnf":
      checkEbnf(grammar.grammar);
      return { kind: "ebnf", text: grammar.grammar };
    case "structural-tag":
      return { kind: "tag", text: tagText(grammar.tag) };
  }
}

function choiceEbnf(choices: readonly string[]): string {
  if (choices.length < 1 || choices.length > CHOICES_MAX)
    throw new SchemaError(`expected 1 to ${CHOICES_MAX} of them, got ${choices.length}`);
  return oneOf(choices.map(literal));
}
