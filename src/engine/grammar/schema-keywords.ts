/** Which keywords there are, which of them go together, and which types a schema is of. */
import { type Place, type Schema, within } from "./schema-place.ts";

export type JsonType = "null" | "boolean" | "integer" | "number" | "string" | "array" | "object";

/** What decides how a schema is translated; the first that is there. */
const kinds = ["$ref", "const", "enum", "anyOf", "oneOf", "allOf"] as const;
export type SchemaKind = (typeof kinds)[number] | "typed" | "any";

/** Say something about a schema and nothing about what matches it. */
const annotations = new Set([
  ...["$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"],
  ...["deprecated", "readOnly", "writeOnly"],
]);

const keywordsOfTypes: Record<JsonType, readonly string[]> = {
  null: [],
  boolean: [],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  string: ["minLength", "maxLength", "pattern", "format"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  object: [
    ...["properties", "required", "additionalProperties", "patternProperties", "propertyNames"],
    ...["minProperties", "maxProperties"],
  ],
};

const jsonTypes = Object.keys(keywordsOfTypes) as JsonType[];
const typeKeywords = new Set(Object.values(keywordsOfTypes).flat());

/** Throws `SchemaError` for a keyword that cannot be enforced, at all or beside the others. */
export function checkKeywords(schema: Schema, place: Place): SchemaKind {
  const kind = kinds.find((keyword) => schema[keyword] !== undefined);
  for (const keyword of Object.keys(schema)) {
    if (annotations.has(keyword) || isNeutral(schema, keyword) || keyword === kind) continue;
    const isKnown =
      keyword === "type" || typeKeywords.has(keyword) || (kinds as readonly string[]).includes(keyword);
    if (!isKnown) throw within(place, `expected keywords that can be enforced, got ${shown(keyword)}`);
    const goesWith = kind === undefined || (keyword === "type" && (kind === "const" || kind === "enum"));
    if (!goesWith)
      throw within(place, `expected nothing but annotations beside ${kind}, got ${shown(keyword)}`);
  }
  if (kind) return kind;
  return typesOf(schema, place).length > 0 ? "typed" : "any";
}

/** What asks for nothing. */
function isNeutral(schema: Schema, keyword: string): boolean {
  return schema[keyword] === undefined || (keyword === "uniqueItems" && schema.uniqueItems === false);
}

function shown(keyword: string): string {
  return JSON.stringify(keyword.slice(0, 40));
}

/** The types that a schema names, or else those that its keywords are about; none if there are no such keywords. A keyword about another type says nothing. */
export function typesOf(schema: Schema, place: Place): JsonType[] {
  if (schema.type === undefined) {
    return jsonTypes.filter(
      (type) => type !== "integer" && keywordsOfTypes[type].some((keyword) => schema[keyword] !== undefined),
    );
  }
  const names: unknown[] = Array.isArray(schema.type) ? schema.type : [schema.type];
  const types = jsonTypes.filter((type) => names.includes(type));
  if (types.length === 0 || types.length < new Set(names).size)
    throw within(place, `expected type to be of ${jsonTypes.join(", ")}, got another`);
  return types;
}

export function typeOf(value: unknown): JsonType {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  if (typeof value === "boolean" || typeof value === "string")
    return typeof value === "string" ? "string" : "boolean";
  return "object";
}
