/**
 * Wrong bodies made of right ones: the schema of a body says what it takes, so each of its rules is broken once, at
 * every depth. A schema that grows makes more of them by itself.
 */
export interface JsonSchema {
  type?: string;
  properties?: Record<string, JsonSchema>;
  required?: readonly string[];
  additionalProperties?: boolean | JsonSchema;
  items?: JsonSchema;
  anyOf?: readonly JsonSchema[];
  enum?: readonly unknown[];
  const?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
}

export interface Mutation {
  /** Where, and what. */
  name: string;
  value: unknown;
}

/** Longest array or string that is made to break a limit. */
const lengthMax = 5000;

/** Every way to break the schema once; `right` is a value that does not. */
export function mutations(schema: JsonSchema, right: unknown): Mutation[] {
  const fitting =
    isObject(right) && schema.anyOf?.find(({ required }) => required?.every((key) => key in right));
  if (fitting) return [...wrongTypes(schema), ...mutations(fitting, right)];
  return [
    ...wrongTypes(schema),
    ...wrongValues(schema),
    ...wrongKeys(schema, right),
    ...wrongFields(schema, right),
    ...wrongItems(schema),
  ];
}

const ofTypes: Record<string, unknown> = {
  string: "text",
  number: 0.5,
  integer: 1,
  boolean: true,
  array: [[]],
  object: { made: "up" },
};

/** Alternatives have nothing to say of types that any of them takes. */
function typesOf({ type, anyOf, enum: values, const: only }: JsonSchema): Set<string> | null {
  if (type !== undefined) return new Set(type === "number" ? ["number", "integer"] : [type]);
  if (values || only !== undefined) return new Set((values ?? [only]).map((value) => typeof value));
  if (!anyOf) return null;
  const all = anyOf.map(typesOf);
  return all.includes(null) ? null : new Set(all.flatMap((types) => [...(types ?? [])]));
}

function wrongTypes(schema: JsonSchema): Mutation[] {
  const types = typesOf(schema);
  if (!types) return [];
  const wrong = Object.entries(ofTypes).filter(([type]) => !types.has(type));
  return wrong.map(([type, value]) => ({ name: `: ${type}`, value }));
}

function wrongValues(schema: JsonSchema): Mutation[] {
  const { minimum, maximum, exclusiveMinimum, minLength, maxLength, maxItems } = schema;
  const found: Mutation[] = [];
  const add = (name: string, value: unknown) => found.push({ name: `: ${name}`, value });
  if (minimum !== undefined) add("below", minimum - 1);
  if (maximum !== undefined) add("above", maximum + 1);
  if (exclusiveMinimum !== undefined) add("at the bound", exclusiveMinimum);
  if (schema.type === "integer") add("beyond integers", 1.5e300);
  if (schema.enum ?? schema.const) add("another", typeof schema.const === "number" ? 77 : "made up");
  if (minLength) add("short", "");
  if (maxLength !== undefined && maxLength < lengthMax) add("long", "x".repeat(maxLength + 1));
  if (maxItems !== undefined && maxItems < lengthMax) add("many", new Array(maxItems + 1).fill("x"));
  return found;
}

function wrongKeys(schema: JsonSchema, right: unknown): Mutation[] {
  if (schema.type !== "object" || !isObject(right)) return [];
  const missing = (schema.required ?? []).map((key) => {
    return { name: `.${key}: missing`, value: { ...right, [key]: undefined } };
  });
  if (schema.additionalProperties !== false) return missing;
  // JSON.parse makes a key of its own of `__proto__`, which a literal does not.
  const proto = { ...right, ...(JSON.parse('{"__proto__":{"isAdmin":true}}') as object) };
  Object.defineProperty(proto, "__proto__", { value: { isAdmin: true }, enumerable: true });
  return [
    ...missing,
    { name: ": an unknown key", value: { ...right, made_up: 1 } },
    { name: ": constructor", value: { ...right, constructor: { prototype: { isAdmin: true } } } },
    { name: ": __proto__", value: proto },
  ];
}

function wrongFields(schema: JsonSchema, right: unknown): Mutation[] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, field]) => {
    const base = isObject(right) ? right : {};
    return mutations(field, base[key] ?? sampleOf(field)).map(({ name, value }) => {
      return { name: `.${key}${name}`, value: { ...base, [key]: value } };
    });
  });
}

function wrongItems({ items, anyOf }: JsonSchema): Mutation[] {
  const list = items ?? anyOf?.find((one) => one.items)?.items;
  if (!list) return [];
  return mutations(list, sampleOf(list)).map(({ name, value }) => ({ name: `[0]${name}`, value: [value] }));
}

/** A value that the schema takes, as far as it says. */
export function sampleOf(schema: JsonSchema): unknown {
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[0];
  if (schema.anyOf) return sampleOf(schema.anyOf[0]);
  switch (schema.type) {
    case "object":
      return Object.fromEntries(
        (schema.required ?? []).map((key) => [key, sampleOf(schema.properties?.[key] ?? {})]),
      );
    case "array":
      return schema.items ? [sampleOf(schema.items)] : [];
    case "number":
    case "integer":
      return schema.minimum ?? 1;
    case "boolean":
      return true;
    case "string":
    case undefined:
    default:
      return "x".repeat(Math.max(1, schema.minLength ?? 1));
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
