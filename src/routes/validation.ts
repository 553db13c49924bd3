/**
 * zod with this API's manners: null is absent, unknown keys are refused by name, and the first thing wrong becomes
 * one `InvalidRequestError`. Each schema's `error` says what is expected ("a number from 0 to 1").
 */
import { z } from "zod";
import { InvalidRequestError } from "../engine/errors.ts";
import { describe, quote } from "./errors.ts";

export const boolean = z.boolean({ error: "true or false" });

/** Validates `body`; throws `InvalidRequestError` whose `param` is the path of the first thing wrong. */
export function validate<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  throw toInvalidRequest(result.error.issues[0], body);
}

/** An object with exactly these keys; a key whose value is null counts as absent. */
export function object<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.preprocess(withoutNulls, z.strictObject(shape, { error: "an object" }));
}

/** An array whose length is checked before its elements: a million wrong ones must not make a million issues. */
export function array<Item extends z.ZodType>(item: Item, lengthMax: number, error: string) {
  return z
    .array(z.unknown(), { error })
    .max(lengthMax, { error: `at most ${lengthMax} elements` })
    .pipe(z.array(item));
}

/** An object of one of several kinds, told apart by its `type`, or by another key. */
export function variant<Variants extends Record<string, z.ZodType>>(
  variants: Variants,
  error: string,
  key = "type",
) {
  return z.unknown().transform((value, context): z.output<Variants[keyof Variants]> => {
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    const kind = isObject ? (value as Record<string, unknown>)[key] : undefined;
    if (typeof kind !== "string" || !Object.hasOwn(variants, kind)) {
      context.addIssue({
        code: "custom",
        message: isObject ? error : "an object",
        path: isObject ? [key] : [],
      });
      return z.NEVER;
    }
    const result = variants[kind].safeParse(value);
    if (result.success) return result.data as z.output<Variants[keyof Variants]>;
    for (const issue of result.error.issues) context.addIssue({ ...issue });
    return z.NEVER;
  });
}

export function numberBetween(low: number, high: number) {
  const error = `a number from ${low} to ${high}`;
  return z.number({ error }).min(low, { error }).max(high, { error });
}

export function integerBetween(low: number, high: number) {
  const error = `an integer from ${low} to ${high}`;
  return z.int({ error }).min(low, { error }).max(high, { error });
}

export function stringUpTo(lengthMax: number) {
  const error = `a string of 1 to ${lengthMax} characters`;
  return z.string({ error }).min(1, { error }).max(lengthMax, { error });
}

/** A parameter that is known by name only: accepted with the value that asks for nothing, refused with any other. */
export function only<T extends number | boolean>(value: T) {
  return z.literal(value, { error: `${value}, as nothing else is supported` });
}

/** What no single parameter shows to be wrong. */
export function refusal(param: string, reason: string): InvalidRequestError {
  return new InvalidRequestError(`Cannot accept ${param}: ${reason}`, param);
}

export function integerFrom(low: number) {
  const error = `an integer of at least ${low}`;
  return z.int({ error }).min(low, { error });
}

function withoutNulls(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== null));
}

function toInvalidRequest(issue: z.core.$ZodIssue, body: unknown): InvalidRequestError {
  if (issue.code === "unrecognized_keys") {
    const param = pathName([...issue.path, issue.keys[0]]);
    const message = `Cannot accept ${quote(param)}: expected supported parameters only, got an unknown one`;
    return new InvalidRequestError(message, param);
  }
  const found = describe(valueAt(body, issue.path));
  const param = issue.path.length > 0 ? pathName(issue.path) : null;
  return new InvalidRequestError(
    `Cannot accept ${param ?? "the request body"}: expected ${issue.message}, got ${found}`,
    param,
  );
}

/** `messages[0].content`, as OpenAI spells it. */
function pathName(path: readonly PropertyKey[]): string {
  return path
    .map((key, index) => (typeof key === "number" ? `[${key}]` : `${index > 0 ? "." : ""}${String(key)}`))
    .join("");
}

function valueAt(body: unknown, path: readonly PropertyKey[]): unknown {
  let value = body;
  for (const key of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}
