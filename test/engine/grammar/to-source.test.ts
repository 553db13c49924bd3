import { describe, expect, test } from "bun:test";
import { CHOICES_MAX, GRAMMAR_CHARS_MAX } from "../../../src/limits.ts";
import type { Grammar } from "../../../src/engine/client.ts";
import { InvalidRequestError } from "../../../src/engine/errors.ts";
import { toSource } from "../../../src/engine/grammar/to-source.ts";

function refusalOf(grammar: Grammar): InvalidRequestError {
  try {
    toSource(grammar);
  } catch (error) {
    if (error instanceof InvalidRequestError) return error;
    throw error;
  }
  throw new Error("expected a refusal");
}

test("equal grammars are one text", () => {
  const schema = { type: "object", properties: { a: { type: "string" } } };
  const [first, second] = [schema, { ...schema, title: "another" }].map((one) =>
    toSource({ type: "json-schema", schema: one }),
  );
  expect(second.text).toBe(first.text);
});

test("schemas and patterns of a structural tag become grammars, wherever they are", () => {
  const content = { type: "json_schema", json_schema: { type: "integer" } };
  const tag = {
    format: {
      type: "triggered_tags",
      triggers: ["<"],
      tags: [
        { type: "tag", begin: "<a>", content, end: "</a>" },
        { type: "regex", pattern: "[a-z]" },
      ],
    },
  };
  const source = toSource({ type: "structural-tag", tag });
  expect(source.kind).toBe("tag");
  expect(source.text).not.toContain("json_schema");
  expect(source.text).not.toContain('"regex"');
  expect(source.text).toContain("triggered_tags");
});

describe("a refusal names the parameter", () => {
  test.each<[Grammar, string]>([
    [
      { type: "json-schema", schema: { not: {} } },
      'Cannot follow the schema: expected keywords that can be enforced, got "not"',
    ],
    [{ type: "regex", pattern: "(" }, "Cannot follow the pattern: expected a closing parenthesis"],
    [{ type: "choice", choices: [] }, `Cannot follow the choices: expected 1 to ${CHOICES_MAX}`],
    [
      { type: "ebnf", grammar: "root ::= [à-ü]" },
      "Cannot follow the grammar: expected character classes of ASCII",
    ],
    [{ type: "ebnf", grammar: "root ::= [\\u00e0-\\u00ff]" }, "character classes of ASCII"],
    [{ type: "ebnf", grammar: " ".repeat(GRAMMAR_CHARS_MAX + 1) }, "at most"],
    [
      { type: "structural-tag", tag: { type: "json_schema", json_schema: { not: {} } } },
      "Cannot follow the structural tag",
    ],
  ])("%j", (grammar, message) => {
    const error = refusalOf({ ...grammar, param: "here" });
    expect(error.message).toContain(message);
    expect(error.param).toBe("here");
  });
});

test("what looks like a class in a string or a comment is none", () => {
  const grammar = 'root ::= "[é]" # [é]\n';
  expect(toSource({ type: "ebnf", grammar }).text).toBe(grammar);
});
