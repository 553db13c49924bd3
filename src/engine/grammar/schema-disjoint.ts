/** Whether schemas exclude each other, so that to match one of them is to match exactly one. Says no when in doubt. */
import { type JsonType, typeOf, typesOf } from "./schema-keywords.ts";
import { isObject, type Place, placeAt, type Schema } from "./schema-place.ts";

export function areDisjoint(root: unknown, places: readonly Place[]): boolean {
  const schemas = places.map((place) => resolved(root, place));
  return schemas.every((schema, index) =>
    schemas
      .slice(index + 1)
      .every((other) => schema !== null && other !== null && exclude(root, schema, other)),
  );
}

/** The schema behind a reference. */
function resolved(root: unknown, place: Place): { schema: Schema; place: Place } | null {
  if (!isObject(place.value)) return null;
  if (typeof place.value.$ref !== "string") return { schema: place.value, place };
  const target = placeAt(root, place.value.$ref, place);
  return isObject(target.value) && target.value.$ref === undefined
    ? { schema: target.value, place: target }
    : null;
}

type Resolved = NonNullable<ReturnType<typeof resolved>>;

function exclude(root: unknown, a: Resolved, b: Resolved): boolean {
  const [first, second] = [kindsOf(a), kindsOf(b)];
  if (first && second && !first.some((kind) => second.includes(kind))) return true;
  const [values, others] = [valuesOf(a.schema), valuesOf(b.schema)];
  if (values && others) return !values.some((value) => others.includes(value));
  return tagsExclude(root, a, b);
}

/** Types, an integer being a number; null where the schema does not say. */
function kindsOf({ schema, place }: Resolved): JsonType[] | null {
  const values = schema.const !== undefined ? [schema.const] : schema.enum;
  const types = Array.isArray(values)
    ? values.map(typeOf)
    : schema.type === undefined
      ? []
      : typesOf(schema, place);
  return types.length > 0 ? types.map((type) => (type === "integer" ? "number" : type)) : null;
}

function valuesOf(schema: unknown): string[] | null {
  if (!isObject(schema)) return null;
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  return Array.isArray(schema.enum) ? schema.enum.map((value) => JSON.stringify(value)) : null;
}

/** A property that both require has different values. */
function tagsExclude(root: unknown, a: Resolved, b: Resolved): boolean {
  const requires = ({ schema }: Resolved, name: string) =>
    Array.isArray(schema.required) && schema.required.includes(name);
  const valuesAt = ({ schema, place }: Resolved, name: string) => {
    const value = (schema.properties as Schema)[name];
    return valuesOf(resolved(root, { ...place, value })?.schema);
  };
  if (!isObject(a.schema.properties) || !isObject(b.schema.properties)) return false;
  return Object.keys(a.schema.properties).some((name) => {
    if (!requires(a, name) || !requires(b, name) || !Object.hasOwn(b.schema.properties as Schema, name))
      return false;
    const [values, others] = [valuesAt(a, name), valuesAt(b, name)];
    return values !== null && others !== null && !values.some((value) => others.includes(value));
  });
}
