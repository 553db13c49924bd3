/** Where a translator is in a schema, reading its keywords, and saying what is wrong with them. */

import { ERROR_ECHO_CHARS_MAX } from "../../limits.ts";

export type Schema = Readonly<Record<string, unknown>>;

export interface Place {
  /** A schema, if all is well. */
  value: unknown;
  /** Keywords from the root: `properties.a.items`; "" is the root. */
  path: string;
  depth: number;
  /** Its text is the whole answer: nothing comes behind it. */
  isWhole: boolean;
  /** The rule whose text begins with it; null when something stands before it. */
  rule: string | null;
}

/** Why a schema cannot be followed: "at PATH, expected ..., got ...". */
export class SchemaError extends Error {
  override name = "SchemaError";
}

export function within({ path }: Place, reason: string): SchemaError {
  return new SchemaError(path === "" ? reason : `at ${shortened(path)}, ${reason}`);
}

function shortened(path: string): string {
  return path.length > 120 ? `...${path.slice(-120)}` : path;
}

/** The schema there; true allows everything. */
export function schemaAt(place: Place): Schema | true {
  const { value } = place;
  if (value === true) return true;
  if (isObject(value)) return value;
  throw within(
    place,
    `expected a schema, got ${value === false ? "one that allows nothing" : describe(value)}`,
  );
}

export function readString(schema: Schema, place: Place, keyword: string): string {
  const value = schema[keyword];
  if (typeof value === "string") return value;
  throw within(place, `expected ${keyword} to be a string, got ${describe(value)}`);
}

export function readNumber(schema: Schema, place: Place, keyword: string): number {
  const value = schema[keyword];
  if (typeof value === "number") return value;
  throw within(place, `expected ${keyword} to be a number, got ${describe(value)}`);
}

/** A count up to `most`; undefined where there is none. */
export function readCount(schema: Schema, place: Place, keyword: string, most: number): number | undefined {
  const value = schema[keyword];
  if (value === undefined) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw within(place, `expected ${keyword} to be an integer from 0 to ${most}, got ${describe(value)}`);
}

/** At least one element and at most `most`. */
export function readList(schema: Schema, place: Place, keyword: string, most: number): readonly unknown[] {
  const value = schema[keyword];
  const least = keyword === "required" || keyword === "prefixItems" ? 0 : 1;
  if (Array.isArray(value) && value.length >= least && value.length <= most) return value;
  const found = Array.isArray(value) ? `an array of ${value.length}` : describe(value);
  throw within(place, `expected ${keyword} to be an array of ${least} to ${most}, got ${found}`);
}

export function readObject(schema: Schema, place: Place, keyword: string): Schema {
  const value = schema[keyword];
  if (isObject(value)) return value;
  throw within(place, `expected ${keyword} to be an object, got ${describe(value)}`);
}

/** What a local reference (`#/$defs/a`) leads to. */
export function placeAt(root: unknown, uri: string, from: Place): Place {
  if (uri !== "#" && !uri.startsWith("#/"))
    throw within(from, "expected $ref to be local (#/...), got another");
  const steps = uri === "#" ? [] : uri.slice(2).split("/").map(decodeStep);
  let value = root;
  for (const step of steps) {
    const has = (isObject(value) || Array.isArray(value)) && Object.hasOwn(value, step);
    if (!has) throw within(from, "expected $ref to lead to a part of the schema, got one that leads nowhere");
    value = (value as Record<string, unknown>)[step];
  }
  return { ...from, value, path: steps.join(".") };
}

/** As JSON pointers in URIs are written. */
function decodeStep(step: string): string {
  const plain = step.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) =>
    String.fromCharCode(parseInt(hex, 16)),
  );
  return plain.replaceAll("~1", "/").replaceAll("~0", "~");
}

export function isObject(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  if (value === undefined || value === null) return "nothing";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "string") return JSON.stringify(value.slice(0, ERROR_ECHO_CHARS_MAX));
  return typeof value === "number" || typeof value === "boolean" ? String(value) : "an object";
}
