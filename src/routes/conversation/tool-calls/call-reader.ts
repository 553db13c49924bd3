/** One call, `{"name": ..., "arguments": {...}}`, as it comes: announced as soon as name and arguments are there to see. */
import type { CallPart } from "./format.ts";
import { JsonObjectReader, type JsonProgress } from "./json-reader.ts";

/** Both spellings are common, whatever a model was trained on. */
const ARGUMENT_KEYS: ReadonlySet<string> = new Set(["arguments", "parameters"]);

export interface CallProgress {
  /** Characters taken; fewer than given where the call is over, or is none. */
  taken: number;
  parts: CallPart[];
  progress: JsonProgress;
}

export class CallReader {
  readonly #toolNames: ReadonlySet<string>;
  readonly #object = new JsonObjectReader();
  /** The name's JSON text. */
  #nameText = "";
  #name: string | undefined;
  /** What the arguments are written under. */
  #argumentsKey: string | undefined;
  #argumentsText = "";
  #areArgumentsOver = false;
  /** How much of the arguments has been told; null before the call is announced. */
  #told: number | null = null;

  /** Calls of other tools count as none. */
  constructor(toolNames: ReadonlySet<string>) {
    this.#toolNames = toolNames;
  }

  get isAnnounced(): boolean {
    return this.#told !== null;
  }

  read(text: string): CallProgress {
    let progress: JsonProgress = "open";
    let taken = 0;
    while (taken < text.length && progress === "open") progress = this.#push(text.charAt(taken++));
    if (progress === "invalid") return { taken: taken - 1, parts: this.#tell(), progress };
    if (progress === "complete" && !this.#complete()) progress = "invalid";
    return { taken, parts: this.#tell(), progress };
  }

  #push(char: string): JsonProgress {
    const object = this.#object;
    const progress = object.push(char);
    if (progress === "invalid") return progress;
    if (object.key === "name") return this.#pushName(char) ? progress : "invalid";
    if (ARGUMENT_KEYS.has(object.key)) return this.#pushArguments(char) ? progress : "invalid";
    return progress;
  }

  /** False where the name is not a tool's. Of several members the first counts. */
  #pushName(char: string): boolean {
    if (this.#name !== undefined) return true;
    if (this.#object.isInMember) this.#nameText += char;
    if (!this.#object.isMemberEnd) return true;
    const name = JSON.parse(this.#nameText) as unknown;
    if (typeof name !== "string" || !this.#toolNames.has(name)) return false;
    this.#name = name;
    return true;
  }

  /** False where the arguments are no object, nor the JSON text of one. */
  #pushArguments(char: string): boolean {
    this.#argumentsKey ??= this.#object.key;
    if (this.#areArgumentsOver || this.#object.key !== this.#argumentsKey) return true;
    if (this.#object.isInMember && !this.#isPadding(char)) this.#argumentsText += char;
    if (!this.#object.isMemberEnd) return true;
    const unwrapped = unwrap(this.#argumentsText);
    if (unwrapped === undefined) return false;
    this.#argumentsText = unwrapped;
    return (this.#areArgumentsOver = true);
  }

  /** White space before the value. */
  #isPadding(char: string): boolean {
    return this.#argumentsText === "" && char.trim() === "";
  }

  #complete(): boolean {
    if (this.#name === undefined) return false;
    if (this.#argumentsText === "") this.#argumentsText = "{}";
    return true;
  }

  /** What can be told since the last time. */
  #tell(): CallPart[] {
    const isReadable = this.#areArgumentsOver || this.#argumentsText.startsWith("{");
    if (this.#name === undefined || !isReadable) return [];
    const parts: CallPart[] = this.#told === null ? [{ type: "call", name: this.#name }] : [];
    const text = this.#argumentsText.slice(this.#told ?? 0);
    if (text !== "") parts.push({ type: "arguments", text });
    this.#told = this.#argumentsText.length;
    return parts;
  }
}

/** Arguments as an object's text. Some models write that in a string, or null for none; undefined is for anything else. */
function unwrap(text: string): string | undefined {
  if (text.startsWith("{")) return text;
  const value = JSON.parse(text) as unknown;
  if (value === null) return "{}";
  return typeof value === "string" && isObjectText(value) ? value : undefined;
}

function isObjectText(text: string): boolean {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
