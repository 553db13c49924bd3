/**
 * JSON Schema to EBNF: what matches the grammar is JSON that matches the schema.
 *
 * Not the other way round: what few schemas need may be left out (members in another order than `properties`, numbers
 * of more than 20 digits, additional members where `properties` does not say that there may be some). A keyword that
 * cannot be enforced is refused by name and place, never ignored. xgrammar has a converter of its own, which ignores
 * some (`not`, `uniqueItems`, `multipleOf`, `required` without `properties`), lets a `pattern` break out of its string,
 * and does not escape names; so it is given grammars only.
 */
import {
  ENUM_VALUES_MAX,
  SCHEMA_DEPTH_MAX,
  SCHEMA_ITEMS_MAX,
  SCHEMA_LENGTH_MAX,
  SCHEMA_PARTS_MAX,
} from "../../limits.ts";
import { literal, oneOf, repeated, Rules } from "./ebnf.ts";
import { JsonRules, plainCharacter } from "./json-rules.ts";
import {
  anyInteger,
  anyNumber,
  type Bound,
  boundedInteger,
  boundedNumber,
  type Bounds,
} from "./number-ebnf.ts";
import { membersBody, type Members } from "./object-ebnf.ts";
import { parseRegex, RegexError } from "./regex.ts";
import { jsonEbnf } from "./regex-ebnf.ts";
import {
  type Place,
  placeAt,
  readCount,
  readList,
  readNumber,
  readObject,
  readString,
  type Schema,
  SchemaError,
  schemaAt,
  within,
} from "./schema-place.ts";
import { areDisjoint } from "./schema-disjoint.ts";
import { checkKeywords, type JsonType, typeOf, typesOf } from "./schema-keywords.ts";
import { stringFormats } from "./string-formats.ts";

export { SchemaError } from "./schema-place.ts";

/** The grammar of a schema. Throws `SchemaError`. */
export function schemaEbnf(schema: unknown): string {
  return new SchemaTranslator(schema).translate();
}

class SchemaTranslator {
  readonly #root: Place;
  readonly #rules = new Rules();
  readonly #json = new JsonRules(this.#rules);
  readonly #references = new Map<string, string>();
  /** Rules of references by those that begin with them, before any text. */
  readonly #beginnings = new Map<string, Set<string>>();
  #partCount = 0;

  constructor(schema: unknown) {
    this.#root = { value: schema, path: "", depth: 0, isWhole: true, rule: "root" };
  }

  translate(): string {
    const root = this.#value(this.#root);
    this.#checkBeginnings();
    return this.#rules.text(root);
  }

  #value(place: Place): string {
    if (++this.#partCount > SCHEMA_PARTS_MAX)
      throw within(place, `expected at most ${SCHEMA_PARTS_MAX} schemas, got more`);
    if (place.depth > SCHEMA_DEPTH_MAX)
      throw within(place, `expected at most ${SCHEMA_DEPTH_MAX} nested schemas, got more`);
    const schema = schemaAt(place);
    if (schema === true) return this.#json.value(place);
    const kind = checkKeywords(schema, place);
    switch (kind) {
      case "$ref":
        return this.#reference(readString(schema, place, "$ref"), place);
      case "const":
        return this.#values([schema.const], schema, place);
      case "enum":
        return this.#values(readList(schema, place, "enum", ENUM_VALUES_MAX), schema, place);
      case "anyOf":
        return this.#alternatives(schema, place, "anyOf");
      case "oneOf":
        return this.#alternatives(schema, place, "oneOf");
      case "allOf":
        return this.#only(schema, place);
      case "typed":
        return oneOf(typesOf(schema, place).map((type) => this.#typed(type, schema, place)));
      case "any":
        return this.#json.value(place);
    }
  }

  #reference(uri: string, place: Place): string {
    const target = placeAt(this.#root.value, uri, place);
    const key = `${uri} ${place.isWhole}`;
    const known = this.#references.get(key) ?? (uri === "#" && place.isWhole ? "root" : undefined);
    const name = known ?? this.#rules.reserve();
    if (place.rule)
      this.#beginnings.set(place.rule, (this.#beginnings.get(place.rule) ?? new Set()).add(name));
    if (known) return known;
    this.#references.set(key, name);
    const { isWhole, depth } = place;
    return this.#rules.define(name, this.#value({ ...target, depth: depth + 1, isWhole, rule: name }));
  }

  /** A schema that is nothing but itself again would have no end. */
  #checkBeginnings(): void {
    const done = new Set<string>();
    const visit = (rule: string, open: ReadonlySet<string>): void => {
      if (open.has(rule))
        throw new SchemaError("expected every $ref to lead to a schema, got one that leads back to itself");
      if (done.has(rule)) return;
      for (const next of this.#beginnings.get(rule) ?? []) visit(next, new Set([...open, rule]));
      done.add(rule);
    };
    for (const rule of this.#beginnings.keys()) visit(rule, new Set());
  }

  /** Those of the values that have the schema's type. */
  #values(values: readonly unknown[], schema: Schema, place: Place): string {
    const types: readonly JsonType[] | null = schema.type === undefined ? null : typesOf(schema, place);
    const isMeant = (value: unknown) =>
      types === null ||
      types.includes(typeOf(value)) ||
      (typeOf(value) === "integer" && types.includes("number"));
    const found = values.filter(isMeant).map((value) => literal(JSON.stringify(value)));
    if (found.length === 0)
      throw within(place, "expected a value of the schema's type in enum or const, got none");
    return oneOf(found);
  }

  #alternatives(schema: Schema, place: Place, keyword: "anyOf" | "oneOf"): string {
    const items = readList(schema, place, keyword, SCHEMA_PARTS_MAX);
    const places = items.map((value, index) => ({
      ...place,
      value,
      path: `${place.path}.${keyword}[${index}]`,
      depth: place.depth + 1,
    }));
    if (keyword === "oneOf" && !areDisjoint(this.#root.value, places)) {
      throw within(
        place,
        "expected the schemas of oneOf to exclude each other by type or by the value of a required property, got some that may not; anyOf has no such condition",
      );
    }
    return oneOf(places.map((item) => this.#value(item)));
  }

  #only(schema: Schema, place: Place): string {
    const items = readList(schema, place, "allOf", 1);
    return this.#value({ ...place, value: items[0], path: `${place.path}.allOf[0]`, depth: place.depth + 1 });
  }

  #typed(type: JsonType, schema: Schema, place: Place): string {
    switch (type) {
      case "null":
        return literal("null");
      case "boolean":
        return `(${literal("true")} | ${literal("false")})`;
      case "integer":
      case "number":
        return this.#number(type, schema, place);
      case "string":
        return this.#string(schema, place);
      case "array":
        return this.#array(schema, place);
      case "object":
        return this.#object(schema, place);
    }
  }

  #number(type: "integer" | "number", schema: Schema, place: Place): string {
    const bounds: Bounds = {
      low: tighter(boundOf(schema, place, "minimum"), boundOf(schema, place, "exclusiveMinimum"), 1),
      high: tighter(boundOf(schema, place, "maximum"), boundOf(schema, place, "exclusiveMaximum"), -1),
    };
    if (!bounds.low && !bounds.high) return `(${type === "integer" ? anyInteger : anyNumber})`;
    const found = type === "integer" ? boundedInteger(bounds) : boundedNumber(bounds);
    if (found === null)
      throw within(
        place,
        `expected bounds with ${type === "integer" ? "an integer" : "a number"} between them, got none`,
      );
    return this.#rules.add(found);
  }

  #string(schema: Schema, place: Place): string {
    const pattern = schema.pattern === undefined ? undefined : readString(schema, place, "pattern");
    const format = schema.format === undefined ? undefined : readString(schema, place, "format");
    const min = readCount(schema, place, "minLength", SCHEMA_LENGTH_MAX) ?? 0;
    const max = readCount(schema, place, "maxLength", SCHEMA_LENGTH_MAX);
    const isCounted = schema.minLength !== undefined || schema.maxLength !== undefined;
    if ([pattern !== undefined, format !== undefined, isCounted].filter(Boolean).length > 1)
      throw within(
        place,
        "expected one of pattern, format, and minLength with maxLength, got several, which cannot be enforced together",
      );
    if (pattern !== undefined) return this.#pattern(pattern, place, "pattern");
    if (format !== undefined) return this.#format(format, place);
    if (!isCounted) return this.#json.string(place);
    if (max !== undefined && max < min)
      throw within(place, `expected a maxLength of at least ${min}, got ${max}`);
    return this.#rules.add(`${literal('"')} ${repeated(plainCharacter, min, max ?? null)} ${literal('"')}`);
  }

  #format(format: string, place: Place): string {
    const pattern = stringFormats.get(format);
    if (pattern === undefined)
      throw within(
        place,
        `expected a format that can be enforced (${[...stringFormats.keys()].join(", ")}), got another`,
      );
    return this.#rules.shared(`format-${format}`, () => this.#pattern(pattern, place, "format"));
  }

  #pattern(pattern: string, place: Place, keyword: string): string {
    try {
      return this.#rules.add(`${literal('"')} (${jsonEbnf(parseRegex(pattern))}) ${literal('"')}`);
    } catch (error) {
      if (!(error instanceof RegexError)) throw error;
      throw within(place, `at ${keyword}, ${error.message}`);
    }
  }

  #array(schema: Schema, place: Place): string {
    const first =
      schema.prefixItems === undefined ? [] : readList(schema, place, "prefixItems", SCHEMA_ITEMS_MAX);
    const min = readCount(schema, place, "minItems", SCHEMA_ITEMS_MAX) ?? 0;
    const max = readCount(schema, place, "maxItems", SCHEMA_ITEMS_MAX);
    if (max !== undefined && max < Math.max(min, first.length))
      throw within(place, `expected a maxItems of at least ${Math.max(min, first.length)}, got ${max}`);
    if (schema.items === false && min > first.length)
      throw within(
        place,
        `expected a minItems of at most ${first.length}, as there may be no more items, got ${min}`,
      );
    const items = first.map((value, index) => this.#value(inner(place, value, `prefixItems[${index}]`)));
    const further = schema.items === undefined ? true : schema.items;
    const rest = {
      item: () => this.#value(inner(place, further, "items")),
      min: Math.max(0, min - first.length),
      max: further === false ? 0 : max === undefined ? null : max - first.length,
    };
    return this.#rules.add(this.#json.array(items, rest));
  }

  #object(schema: Schema, place: Place): string {
    const members = this.#members(schema, place);
    if (members === null) return this.#json.anyObject();
    return this.#rules.add(
      this.#json.bracketed("{", membersBody(members, { rules: this.#rules, json: this.#json }), "}"),
    );
  }

  /** Null for an object of any members. */
  #members(schema: Schema, place: Place): Members | null {
    const properties = schema.properties === undefined ? {} : readObject(schema, place, "properties");
    const required =
      schema.required === undefined ? [] : readList(schema, place, "required", SCHEMA_PARTS_MAX).map(String);
    const additional = this.#additional(schema, place);
    const undeclared = required.filter((name) => !Object.hasOwn(properties, name));
    if (undeclared.length > 0 && additional === null)
      throw within(place, "expected the properties that are required to be allowed, got others");
    const min = readCount(schema, place, "minProperties", SCHEMA_ITEMS_MAX) ?? 0;
    const max = readCount(schema, place, "maxProperties", SCHEMA_ITEMS_MAX) ?? null;
    const names = [...Object.keys(properties), ...undeclared];
    const isCounted = min > 0 || max !== null;
    if (isCounted && names.length > 0)
      throw within(
        place,
        "expected minProperties and maxProperties where no property is declared, got them beside some",
      );
    if (max !== null && max < min)
      throw within(place, `expected a maxProperties of at least ${min}, got ${max}`);
    if (
      names.length === 0 &&
      !isCounted &&
      schema.additionalProperties === undefined &&
      additional !== null &&
      additional.key === null
    )
      return null;
    const declared = names.map((name) => ({
      name,
      isRequired: required.includes(name),
      value: Object.hasOwn(properties, name)
        ? this.#value(inner(place, properties[name], `properties.${name}`))
        : (additional?.value() ?? ""),
    }));
    return { declared, additional, min, max };
  }

  /** What other members there may be; null for none. Where properties are declared, the schema has to say so. */
  #additional(schema: Schema, place: Place): Members["additional"] {
    const { patternProperties, propertyNames, additionalProperties } = schema;
    const isDeclared = Object.keys(schema.properties ?? {}).length > 0;
    if (patternProperties !== undefined) return this.#patterned(schema, place, isDeclared);
    const allowed = additionalProperties ?? !isDeclared;
    if (propertyNames !== undefined && isDeclared && allowed !== false)
      throw within(place, "expected propertyNames where no property is declared, got it beside some");
    if (allowed === false) return null;
    const value = () => this.#value(inner(place, allowed, "additionalProperties"));
    if (propertyNames === undefined || propertyNames === true) return { key: null, value };
    return { key: this.#name(inner(place, propertyNames, "propertyNames")), value };
  }

  /** A name that matches two patterns would have to have a value that matches both schemas. */
  #patterned(schema: Schema, place: Place, isDeclared: boolean): Members["additional"] {
    const entries = Object.entries(readObject(schema, place, "patternProperties"));
    const { additionalProperties = false, propertyNames } = schema;
    if (entries.length !== 1 || isDeclared || additionalProperties !== false || propertyNames !== undefined)
      throw within(place, "expected patternProperties of one pattern and no other members, got more");
    const [pattern, value] = entries[0];
    return {
      key: this.#pattern(pattern, place, "patternProperties"),
      value: () => this.#value(inner(place, value, "patternProperties")),
    };
  }

  #name(place: Place): string {
    const schema = schemaAt(place);
    return this.#value({
      ...place,
      value: schema === true ? { type: "string" } : { type: "string", ...schema },
    });
  }
}

/** A place inside brackets: something comes before and behind it. */
function inner(place: Place, value: unknown, step: string): Place {
  const path = place.path === "" ? step : `${place.path}.${step}`;
  return { value, path, depth: place.depth + 1, isWhole: false, rule: null };
}

type BoundKeyword = "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum";

function boundOf(schema: Schema, place: Place, keyword: BoundKeyword): Bound | undefined {
  if (schema[keyword] === undefined) return undefined;
  const value = readNumber(schema, place, keyword);
  if (!/^-?\d+(\.\d+)?$/.test(String(value)))
    throw within(place, `expected a ${keyword} that has a plain decimal, got ${value}`);
  return { value, isExclusive: keyword.startsWith("exclusive") };
}

/** Of two bounds the one that leaves less; `sign` is 1 for lower ones. */
function tighter(a: Bound | undefined, b: Bound | undefined, sign: 1 | -1): Bound | undefined {
  if (!a || !b) return a ?? b;
  return sign * (a.value - b.value) > 0 ? a : b;
}
