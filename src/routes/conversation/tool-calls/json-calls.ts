/** Calls as JSON objects among text, with or without marks around them. */
import { partialMarkLength } from "../marks.ts";
import { CallReader } from "./call-reader.ts";
import type { CallPart, ToolCallParser } from "./format.ts";

export interface JsonCallSyntax {
  /** Stands before a call. */
  opening: string;
  /** A call may do without its opening at the beginning of the answer and behind another call. */
  isOpeningOptional: boolean;
  /** Stands behind a call, or between two of them. A model that forgets it is understood. */
  closing: string;
}

type State = "text" | "call" | "behind-call" | "spoiled-call";

export class JsonCallParser implements ToolCallParser {
  readonly #syntax: JsonCallSyntax;
  readonly #toolNames: ReadonlySet<string>;
  #state: State = "text";
  /** Not looked at yet, or not certain yet. */
  #pending = "";
  #call: CallReader;
  /** All of the call that is being read, with the white space before it: text again if it turns out to be none. */
  #callText = "";
  /** Whether nothing but white space was seen since the beginning or since a call. */
  #isAtStart = true;
  #hasCalls = false;

  constructor(syntax: JsonCallSyntax, toolNames: ReadonlySet<string>) {
    this.#syntax = syntax;
    this.#toolNames = toolNames;
    this.#call = new CallReader(toolNames);
  }

  push(piece: string): CallPart[] {
    this.#pending += piece;
    const parts: CallPart[] = [];
    while (this.#pending !== "" && this.#step(parts));
    return parts;
  }

  end(): CallPart[] {
    const rest = this.#pending;
    this.#pending = "";
    switch (this.#state) {
      case "text":
        // White space behind a call says nothing.
        return this.#hasCalls && rest.trim() === "" ? [] : textPart(rest);
      case "call":
        return this.#call.isAnnounced ? [] : textPart(this.#callText);
      case "behind-call":
        return [];
      case "spoiled-call":
        return argumentsPart(rest);
    }
  }

  /** Adds what is certain to `parts`. False when more text is needed to go on. */
  #step(parts: CallPart[]): boolean {
    switch (this.#state) {
      case "text":
        return this.#readText(parts);
      case "call":
        return this.#readCall(parts);
      case "behind-call":
        return this.#readClosing();
      case "spoiled-call":
        return this.#readSpoiled(parts);
    }
  }

  #readText(parts: CallPart[]): boolean {
    const { opening, isOpeningOptional } = this.#syntax;
    const text = this.#pending;
    const spaceLength = text.length - text.trimStart().length;
    if (isOpeningOptional && this.#isAtStart && text.charAt(spaceLength) === "{") {
      return this.#beginCall(0, spaceLength, parts);
    }
    const at = text.indexOf(opening);
    if (at >= 0) return this.#beginCall(text.slice(0, at).trimEnd().length, at + opening.length, parts);
    const held = partialMarkLength(text, opening);
    this.#giveText(text.slice(0, text.length - held).trimEnd().length, parts);
    return false;
  }

  #giveText(length: number, parts: CallPart[]): void {
    if (length > 0) this.#isAtStart = false;
    parts.push(...textPart(this.#pending.slice(0, length)));
    this.#pending = this.#pending.slice(length);
  }

  #beginCall(textLength: number, start: number, parts: CallPart[]): boolean {
    this.#giveText(textLength, parts);
    this.#callText = this.#pending.slice(0, start - textLength);
    this.#pending = this.#pending.slice(start - textLength);
    this.#call = new CallReader(this.#toolNames);
    this.#state = "call";
    return true;
  }

  #readCall(parts: CallPart[]): boolean {
    const { taken, parts: read, progress } = this.#call.read(this.#pending);
    this.#callText += this.#pending.slice(0, taken);
    this.#pending = this.#pending.slice(taken);
    parts.push(...read);
    if (progress === "open") return false;
    if (progress === "complete") {
      this.#state = "behind-call";
      this.#hasCalls = this.#isAtStart = true;
    } else if (this.#call.isAnnounced) {
      // What has been told cannot be taken back, so the rest of it is told as it was written.
      this.#state = "spoiled-call";
      this.#hasCalls = true;
    } else {
      parts.push(...textPart(this.#callText));
      this.#state = "text";
      this.#isAtStart = false;
    }
    return true;
  }

  #readClosing(): boolean {
    const { closing } = this.#syntax;
    const text = this.#pending.trimStart();
    const isClosed = text.startsWith(closing);
    if (!isClosed && closing.startsWith(text)) return false;
    this.#pending = isClosed ? text.slice(closing.length) : this.#pending;
    this.#state = "text";
    return true;
  }

  #readSpoiled(parts: CallPart[]): boolean {
    const { closing } = this.#syntax;
    const text = this.#pending;
    const at = text.indexOf(closing);
    const end = at >= 0 ? at : text.length - partialMarkLength(text, closing);
    parts.push(...argumentsPart(text.slice(0, end)));
    this.#pending = text.slice(at >= 0 ? end + closing.length : end);
    if (at >= 0) this.#state = "text";
    return at >= 0;
  }
}

function textPart(text: string): CallPart[] {
  return text === "" ? [] : [{ type: "text", text }];
}

function argumentsPart(text: string): CallPart[] {
  return text === "" ? [] : [{ type: "arguments", text }];
}
