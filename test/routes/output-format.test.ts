import { describe, expect, test } from "bun:test";
import { chat, completions, hello, refused, submitted } from "./support.ts";

const schema = {
  type: "object",
  properties: { a: { type: "string" } },
  required: ["a"],
  additionalProperties: false,
};
const json_schema = { name: "answer", strict: true, schema };

const bodies: Record<string, object> = { [chat]: hello, [completions]: { prompt: "hi" } };

describe.each([chat, completions])("%s", (path) => {
  const body = bodies[path];

  test.each<[object, object | undefined]>([
    [{ response_format: { type: "text" } }, undefined],
    [{ response_format: null, structured_outputs: null }, undefined],
    [{ response_format: { type: "json_object" } }, { type: "json-object", param: "response_format" }],
    [
      { response_format: { type: "json_schema", json_schema } },
      { type: "json-schema", schema, param: "response_format" },
    ],
    [
      {
        response_format: {
          type: "json_schema",
          json_schema: { ...json_schema, strict: null, description: "d" },
        },
      },
      { type: "json-schema", schema, param: "response_format" },
    ],
    [{ structured_outputs: { json: schema } }, { type: "json-schema", schema, param: "structured_outputs" }],
    [
      { structured_outputs: { json: JSON.stringify(schema), regex: null } },
      { type: "json-schema", schema, param: "structured_outputs" },
    ],
    [{ structured_outputs: { regex: "a+" } }, { type: "regex", pattern: "a+", param: "structured_outputs" }],
    [
      { structured_outputs: { choice: ["a", "b"] } },
      { type: "choice", choices: ["a", "b"], param: "structured_outputs" },
    ],
    [
      { structured_outputs: { grammar: "root ::= a" } },
      { type: "ebnf", grammar: "root ::= a", param: "structured_outputs" },
    ],
    [
      { response_format: { type: "text" }, structured_outputs: { regex: "a" } },
      { type: "regex", pattern: "a", param: "structured_outputs" },
    ],
  ])("%j", async (parameters, grammar) => {
    const { sampling } = await submitted(path, { ...body, ...parameters });
    expect(sampling.grammar as object | undefined).toEqual(grammar);
  });

  test.each<[object, string]>([
    [{ response_format: "json_object" }, "response_format"],
    [{ response_format: { type: "yaml" } }, "response_format.type"],
    [{ response_format: { type: "json_schema" } }, "response_format.json_schema"],
    [{ response_format: { type: "json_schema", json_schema: null } }, "response_format.json_schema"],
    [
      { response_format: { type: "json_schema", json_schema: { name: "a" } } },
      "response_format.json_schema.schema",
    ],
    [
      { response_format: { type: "json_schema", json_schema: { schema } } },
      "response_format.json_schema.name",
    ],
    [
      { response_format: { type: "json_schema", json_schema: { name: "a", schema: [] } } },
      "response_format.json_schema.schema",
    ],
    [{ response_format: { type: "json_object", schema } }, "response_format.schema"],
    [{ structured_outputs: {} }, "structured_outputs"],
    [{ structured_outputs: { json: schema, regex: "a" } }, "structured_outputs"],
    [{ structured_outputs: { choice: ["a"], grammar: "root ::= a" } }, "structured_outputs"],
    [{ structured_outputs: { choice: [] } }, "structured_outputs.choice"],
    [{ structured_outputs: { choice: ["a", 1] } }, "structured_outputs.choice[1]"],
    [{ structured_outputs: { regex: "" } }, "structured_outputs.regex"],
    [{ structured_outputs: { json: "[1]" } }, "structured_outputs.json"],
    [{ structured_outputs: { json: 3 } }, "structured_outputs.json"],
    [{ structured_outputs: { lark: "a" } }, "structured_outputs.lark"],
    [{ response_format: { type: "json_object" }, structured_outputs: { regex: "a" } }, "structured_outputs"],
  ])("%j is refused", async (parameters, param) => {
    expect((await refused(path, { ...body, ...parameters })).param).toBe(param);
  });
});
