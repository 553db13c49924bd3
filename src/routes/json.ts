/**
 * JSON from strangers. `JSON.parse` alone takes the last of duplicate keys in silence and nests without limit;
 * here both are refused, so a request means one thing only.
 */
import { InvalidRequestError } from "../engine/errors.ts";
import { JSON_DEPTH_MAX, JSON_OBJECT_KEYS_MAX } from "../limits.ts";
import { quote } from "./errors.ts";

/** The value of a JSON text. Throws `InvalidRequestError` for bad syntax, duplicate keys and deep nesting. */
export function parseJson(text: string): unknown {
  checkStructure(text);
  try {
    return JSON.parse(text);
  } catch {
    // The runtime's own message differs between runtimes and repeats the input.
    throw refusal("expected valid JSON, got a syntax error");
  }
}

/** Keys seen so far in an open object; null for an open array. */
type Scope = Set<string> | null;

/** Checks keys and depth of a text that need not be valid JSON: what is not is left to `JSON.parse`. */
function checkStructure(text: string): void {
  const scopes: Scope[] = [];
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === "{" || char === "[") open(scopes, char === "{" ? new Set() : null);
    else if (char === "}" || char === "]") scopes.pop();
    else if (char === '"') at = checkString(text, at, scopes.at(-1) ?? null);
  }
}

function open(scopes: Scope[], scope: Scope): void {
  if (scopes.push(scope) <= JSON_DEPTH_MAX) return;
  throw refusal(`expected at most ${JSON_DEPTH_MAX} nested arrays and objects, got more`);
}

/** Passes over the string that starts at `start`, noting it if it is a key. Returns the index of its last quote. */
function checkString(text: string, start: number, keys: Scope): number {
  let end = start + 1;
  while (end < text.length && text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
  if (keys && isColonNext(text, end + 1)) noteKey(keys, unescape(text.slice(start, end + 1)));
  return end;
}

function isColonNext(text: string, at: number): boolean {
  while (text[at] === " " || text[at] === "\n" || text[at] === "\r" || text[at] === "\t") at++;
  return text[at] === ":";
}

function noteKey(keys: Set<string>, key: string): void {
  if (keys.has(key)) throw refusal(`expected every key of an object once, got ${quote(key)} again`, key);
  if (keys.size === JSON_OBJECT_KEYS_MAX)
    throw refusal(`expected at most ${JSON_OBJECT_KEYS_MAX} keys in an object, got more`);
  keys.add(key);
}

function unescape(quoted: string): string {
  try {
    return String(JSON.parse(quoted));
  } catch {
    return quoted;
  }
}

function refusal(reason: string, param: string | null = null): InvalidRequestError {
  return new InvalidRequestError(`Cannot parse the request body: ${reason}`, param);
}
