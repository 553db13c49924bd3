/** What the tests of `text/` share: seeded randomness, and small checkpoint folders written for one test. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Whole numbers in [0, limit), the same for the same seed (mulberry32). */
export function seededIntegers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

export interface Folder {
  dir: string;
  remove(): void;
}

/** A folder of JSON (or plain text) files, beside copies of `base`'s tokenizer files if given. */
export function writeFolder(files: Record<string, unknown>, base?: string): Folder {
  const dir = mkdtempSync(join(tmpdir(), "prelude-text-"));
  const names = ["tokenizer.json", "tokenizer_config.json"];
  if (base !== undefined) for (const name of names) cpSync(join(base, name), join(dir, name));
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(dir, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return { dir, remove: () => rmSync(dir, { recursive: true }) };
}

interface TinyTokenizer {
  added?: {
    id: number;
    content: string;
    special?: boolean;
    lstrip?: boolean;
    rstrip?: boolean;
    single_word?: boolean;
  }[];
  model?: object;
  rest?: object;
}

/** A tokenizer.json whose ordinary tokens are the printable ASCII characters, with ids equal to their codes. */
export function asciiTokenizer({ added = [], model = {}, rest = {} }: TinyTokenizer = {}): object {
  const vocab: Record<string, number> = {};
  for (let code = 0; code < 127; code++)
    vocab[code < 32 ? `<unused${code}>` : String.fromCharCode(code)] = code;
  vocab["▁"] = 127;
  return { added_tokens: added, model: { type: "BPE", vocab, merges: [], ...model }, ...rest };
}

/** Ids of the characters of ASCII text under `asciiTokenizer`. */
export function codes(text: string): number[] {
  return Array.from(text, (character) => character.charCodeAt(0));
}
