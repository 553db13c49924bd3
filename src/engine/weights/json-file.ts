/**
 * JSON of a checkpoint folder: read whole, within a limit, and refused with a `CheckpointError` that names the file,
 * the field, what was expected and what was found. Knows nothing about what the files mean.
 */
import { readFile, stat } from "node:fs/promises";
import type { z } from "zod";
import { CheckpointError } from "../errors.ts";

/** What is wrong with a checkpoint. `part` is the tensor or field at fault, where there is one. */
export interface Fault {
  file: string;
  part?: string | undefined;
  expected: string;
  found: string;
}

export function checkpointFault({ file, part, expected, found }: Fault): CheckpointError {
  const where = part === undefined ? file : `${file}, ${part}`;
  return new CheckpointError(`Cannot read ${where}: expected ${expected}, got ${found}`);
}

/** Longest value quoted in a message. */
const SHOWN_CHARS_MAX = 120;

/** A found value as it stands in a message: JSON, cut when long; "nothing" when absent. */
export function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value);
  return text.length <= SHOWN_CHARS_MAX ? text : `${text.slice(0, SHOWN_CHARS_MAX)}...`;
}

/** Reads and parses a JSON file of at most `bytesMax` bytes. Throws `CheckpointError`. */
export async function readJsonFile(file: string, bytesMax: number): Promise<unknown> {
  let text: string;
  try {
    const { size } = await stat(file);
    if (size > bytesMax) {
      throw checkpointFault({ file, expected: `at most ${bytesMax} bytes`, found: `${size} bytes` });
    }
    text = await readFile(file, "utf8");
  } catch (error) {
    if (error instanceof CheckpointError) throw error;
    throw checkpointFault({ file, expected: "a readable file", found: errorText(error) });
  }
  return parseJson(text, file);
}

/** Parses JSON text and refuses an object that names a key twice, which JSON.parse would settle silently. */
export function parseJson(text: string, file: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw checkpointFault({ file, expected: "JSON", found: errorText(error) });
  }
  const twice = duplicateKey(text);
  if (twice !== null) {
    throw checkpointFault({ file, part: show(twice), expected: "each key once", found: "the key twice" });
  }
  return value;
}

/** First key that one object of this (valid) JSON text holds twice, or null. */
function duplicateKey(text: string): string | null {
  const open: Set<string>[] = [];
  // Strings are matched whole, so braces inside them do not count; in valid JSON only a key has a colon behind it.
  for (const [token, colon] of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[{}]/g)) {
    if (token === "{") open.push(new Set());
    else if (token === "}") open.pop();
    else if (colon !== undefined) {
      const key = JSON.parse(token.slice(0, -colon.length)) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return null;
}

/**
 * `value` as `schema` understands it. The schema's messages are the "expected" part of the error, so they read
 * like "a positive integer". Throws `CheckpointError`.
 */
export function checked<S extends z.ZodType>(
  schema: S,
  value: unknown,
  { file, part = "" }: Pick<Fault, "file" | "part">,
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const path = issue?.path ?? [];
  const field = [part, path.map(String).join(".")].filter((name) => name !== "").join(", ");
  throw checkpointFault({
    file,
    part: field === "" ? undefined : field,
    expected: issue?.message ?? "another value",
    found: show(valueAt(value, path)),
  });
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (at, key) =>
      at === null || typeof at !== "object" ? undefined : (at as Record<PropertyKey, unknown>)[key],
    value,
  );
}

function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
