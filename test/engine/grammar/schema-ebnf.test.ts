/** JSON Schema as grammars, in real matchers: what they make is checked with zod's reading of the same schema. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { z } from "zod";
import { schemaEbnf, SchemaError } from "../../../src/engine/grammar/schema-ebnf.ts";
import { Random } from "../../sim/random.ts";
import { accepts, bytesPool, sample } from "../../support/grammar.ts";

setDefaultTimeout(120_000);

const pool = bytesPool();
afterAll(() => pool.close());

type Data = Record<string, unknown>;
const person: Data = {
  type: "object",
  properties: {
    name: { type: "string" },
    age: { type: "integer", minimum: 0, maximum: 150 },
    tags: { type: "array", items: { type: "string" } },
  },
  required: ["name", "age"],
  additionalProperties: false,
};
const tree: Data = {
  $defs: {
    node: {
      type: "object",
      properties: {
        value: { type: "integer" },
        next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] },
      },
      required: ["value", "next"],
      additionalProperties: false,
    },
  },
  $ref: "#/$defs/node",
};
const shapes: Data = {
  oneOf: [
    {
      type: "object",
      properties: {
        kind: { const: "circle" },
        radius: { type: "number", exclusiveMinimum: 0, maximum: 10.5 },
      },
      required: ["kind", "radius"],
    },
    {
      type: "object",
      properties: { kind: { enum: ["square", "rect"] }, side: { type: "number" } },
      required: ["kind"],
    },
  ],
};

/** Each with texts that match and texts that do not. */
const schemas: Record<string, [schema: Data, good: string[], bad: string[]]> = {
  person: [
    person,
    [
      '{"name":"a","age":3}',
      '{"name": "ä\\n\\"", "age": 150, "tags": []}',
      '{\n  "name": "a",\n  "age": 0,\n  "tags": ["x", "y"]\n}',
    ],
    [
      '{"name":"a"}',
      '{"name":"a","age":151}',
      '{"name":"a","age":3,"x":1}',
      '{"name":"\n","age":3}',
      '{"name":"a","age":3',
      '{"name":"a" "age":3}',
    ],
  ],
  tree: [tree, ['{"value":1,"next":{"value":-2,"next":null}}'], ['{"value":1}', '{"value":1,"next":{}}']],
  shapes: [
    shapes,
    ['{"kind":"circle","radius":0.5}', '{"kind":"rect","side":-1e3}', '{"kind":"square"}'],
    ['{"kind":"circle","radius":0}', '{"kind":"circle","side":1}', '{"kind":"oval"}'],
  ],
  "a string of some length": [
    { type: "string", minLength: 2, maxLength: 4 },
    ['"ab"', '"äöüß"', '"日本語"'],
    ['"a"', '"abcde"', '"a\tb"', '"a"b"'],
  ],
  "a string of a pattern": [
    { type: "string", pattern: "^.{1,3}[^x]$" },
    ['"abc"', '"a\\"b"', '"\\\\a"'],
    ['"a"', '"abx"', '"a"b"', '"a\\xb"'],
  ],
  "a date": [{ type: "string", format: "date" }, ['"2024-02-29"'], ['"2024-2-29"', '"today"']],
  "an enum": [{ enum: ['a"b', 1, null, true] }, ['"a\\"b"', "1", "null", "true"], ["2", '"b"', "false"]],
  "an enum of a type": [{ type: ["string", "null"], enum: ["a", 1, null] }, ['"a"', "null"], ["1"]],
  "several types": [
    { type: ["integer", "string", "null"], maximum: 5 },
    ["5", '"x"', "null", "-12"],
    ["6", "5.5", "true"],
  ],
  "an array of some length": [
    { type: "array", items: { type: "boolean" }, minItems: 1, maxItems: 3 },
    ["[true]", "[true, false,\n true]"],
    ["[]", "[1]", "[true,true,true,true]", "[true,]"],
  ],
  "a tuple": [
    { type: "array", prefixItems: [{ type: "string" }, { type: "integer" }], items: false },
    ['["a",1]'],
    ['["a"]', '["a",1,2]', "[1,1]"],
  ],
  "a tuple that goes on": [
    { type: "array", prefixItems: [{ type: "string" }], items: { type: "null" }, minItems: 2 },
    ['["a",null]', '["a", null, null]'],
    ['["a"]', '["a",1]'],
  ],
  "a map": [
    { type: "object", additionalProperties: { type: "integer" }, minProperties: 1, maxProperties: 2 },
    ['{"x":1}', '{"x":1, "y\\n":2}'],
    ["{}", '{"x":"a"}', '{"x":1,"y":2,"z":3}'],
  ],
  "a map of named members": [
    { type: "object", propertyNames: { pattern: "[a-c]+" }, additionalProperties: true },
    ["{}", '{"ab":[1,{}]}'],
    ['{"d":1}'],
  ],
  "members by pattern": [
    { type: "object", patternProperties: { "^x-": { type: "integer" } }, additionalProperties: false },
    ["{}", '{"x-":1}'],
    ['{"y":1}', '{"x-":"a"}'],
  ],
  "optional members": [
    {
      type: "object",
      properties: { a: { type: "null" }, b: { type: "null" }, c: { type: "null" } },
      required: ["b"],
    },
    ['{"b":null}', '{"a":null,"b":null}', '{"b":null,"c":null}', '{"a":null, "b":null, "c":null}'],
    ["{}", '{"a":null}', '{"b":null,"a":null}', '{"a":null,"b":null,}'],
  ],
  "members and others": [
    {
      type: "object",
      properties: { ab: { type: "integer" }, ac: { type: "integer" } },
      required: ["ab", "z"],
      additionalProperties: { type: "string" },
    },
    ['{"ab":1,"z":"x"}', '{"ab":1,"ac":2,"z":"x","a":"","abc":"","ad":""}'],
    ['{"ab":1}', '{"ab":1,"z":"x","ac":"x"}', '{"ab":1,"z":"x","\\u0061c":"x"}', '{"ab":1,"z":"x","q":1}'],
  ],
  "only others": [
    { type: "object", properties: { a: { type: "integer" } }, additionalProperties: { type: "string" } },
    ["{}", '{"b":"x"}', '{"a":1,"b":"x"}'],
    ['{"a":"x"}', '{"b":1}'],
  ],
  "names that need escapes": [
    {
      type: "object",
      properties: { 'a"b\\': { type: "integer" }, "é☃": { type: "integer" } },
      required: ['a"b\\', "é☃"],
    },
    ['{"a\\"b\\\\":1,"é☃":2}'],
    ['{"a"b\\":1,"é☃":2}'],
  ],
  anything: [
    {},
    ["1.5e3", '"x"', "[]", '{"a":[null,{"b":{}}]}', "true"],
    ["", "nul", "{a:1}", "[1,]", "'x'"],
  ],
  "any object": [{ type: "object" }, ["{}", '{"a": {"b": [1, "x"]}}'], ["[]", "1", '{"a"}']],
  "no members": [{ type: "object", additionalProperties: false }, ["{}"], ['{"a":1}']],
  "one of allOf": [
    {
      allOf: [{ $ref: "#/definitions/ab" }],
      description: "x",
      $schema: "http://json-schema.org/draft-07/schema#",
      definitions: { ab: { type: "boolean" } },
    },
    ["true"],
    ["1"],
  ],
  "without a type": [{ properties: { a: { minimum: 3 } }, required: ["a"] }, ['{"a":3}'], ['{"a":2}', "{}"]],
};

describe.each(Object.keys(schemas))("%p", (name) => {
  const [schema, good, bad] = schemas[name];
  const grammar = { type: "json-schema", schema } as const;

  test("takes what matches and nothing else", async () => {
    const taken = async (texts: string[]) => {
      const verdicts = await Promise.all(texts.map((text) => accepts(pool, grammar, text)));
      return texts.filter((_, index) => verdicts[index]);
    };
    expect(await taken(good)).toEqual(good);
    expect(await taken(bad)).toEqual([]);
  });

  test("makes JSON that matches", async () => {
    const reader = z.fromJSONSchema(schema);
    const random = new Random(17);
    for (let count = 0; count < 12; count++) {
      const text = await sample(pool, grammar, random);
      const { success, error } = reader.safeParse(JSON.parse(text));
      expect([text, success, error?.message]).toEqual([text, true, undefined]);
    }
  });
});

describe("what cannot be enforced is refused by name and place", () => {
  const at = (schema: Data) => ({ type: "object", properties: { a: { type: "array", items: schema } } });
  test.each<[Data, string]>([
    [{ not: { type: "null" } }, '"not"'],
    [{ type: "array", uniqueItems: true }, '"uniqueItems"'],
    [{ type: "number", multipleOf: 2 }, '"multipleOf"'],
    [{ type: "array", contains: {} }, '"contains"'],
    [{ if: {}, then: {} }, '"if"'],
    [{ type: "object", dependentRequired: {} }, '"dependentRequired"'],
    [{ type: "object", unevaluatedProperties: false }, '"unevaluatedProperties"'],
    [{ type: "string", nullable: true }, '"nullable"'],
    [{ $ref: "#/properties/a", minLength: 3 }, 'beside $ref, got "minLength"'],
    [{ anyOf: [{}], minimum: 3 }, 'beside anyOf, got "minimum"'],
    [{ allOf: [{}, {}] }, "allOf"],
    [{ oneOf: [{ type: "integer" }, { type: "number" }] }, "oneOf"],
    [{ type: "string", format: "credit-card" }, "format"],
    [{ type: "string", pattern: "a(?=b)" }, "pattern"],
    [{ type: "string", pattern: "a", maxLength: 3 }, "pattern, format, and minLength"],
    [{ type: "strnig" }, "type"],
    [{ type: [] }, "type"],
    [{ $ref: "https://example.org/x" }, "$ref"],
    [{ $ref: "#/$defs/none" }, "$ref"],
    [{ enum: [] }, "enum"],
    [{ type: "integer", enum: ["a"] }, "enum"],
    [{ type: "integer", minimum: 3, maximum: 2 }, "bounds"],
    [{ type: "number", minimum: 1e30 }, "minimum"],
    [{ type: "string", maxLength: 100_000 }, "maxLength"],
    [{ type: "string", minLength: 3, maxLength: 2 }, "maxLength"],
    [{ type: "array", minItems: 3, maxItems: 2 }, "maxItems"],
    [{ type: "array", prefixItems: [{}], items: false, minItems: 2 }, "minItems"],
    [{ type: "array", items: [{}] }, "items"],
    [{ type: "object", required: ["b"], additionalProperties: false }, "required"],
    [{ type: "object", patternProperties: { a: {}, b: {} } }, "patternProperties"],
    [{ type: "object", properties: { b: {} }, minProperties: 1 }, "minProperties"],
    [{ type: "object", properties: { b: false } }, "allows nothing"],
    [{ type: "object", properties: 3 }, "properties"],
  ])("%j", (schema, reason) => {
    expect(() => schemaEbnf(at(schema))).toThrow(SchemaError);
    expect(() => schemaEbnf(at(schema))).toThrow("at properties.a.items");
    expect(() => schemaEbnf(at(schema))).toThrow(reason);
  });

  test("no reference, however it is written", async () => {
    const $defs = { "a/b~c d": { const: "here" } };
    const schema = { $ref: "#/$defs/a~1b~0c%20d", $defs };
    expect(await accepts(pool, { type: "json-schema", schema }, '"here"')).toBe(true);
  });

  test("a reference that leads back to itself", () => {
    for (const schema of [
      { $ref: "#" },
      { $ref: "#/$defs/a", $defs: { a: { anyOf: [{ type: "null" }, { $ref: "#/$defs/a" }] } } },
    ])
      expect(() => schemaEbnf(schema)).toThrow("leads back to itself");
  });

  test("too much of it", () => {
    let deep: Data = { type: "null" };
    for (let depth = 0; depth < 100; depth++) deep = { type: "array", items: deep };
    expect(() => schemaEbnf(deep)).toThrow("nested schemas");
    const wide = { anyOf: Array.from({ length: 3000 }, () => ({ type: "array", items: { type: "null" } })) };
    expect(() => schemaEbnf(wide)).toThrow("schemas, got more");
  });
});
