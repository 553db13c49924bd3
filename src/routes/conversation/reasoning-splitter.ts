/**
 * Parts an answer into what the model thinks, between `<think>` and `</think>` at its beginning, and what it says.
 * Line breaks around the marks belong to neither, as templates put them there.
 */
import { partialMarkLength } from "./marks.ts";

export interface SplitPart {
  type: "text" | "reasoning";
  text: string;
}

const OPENING = "<think>";
const CLOSING = "</think>";

/** `-start`: behind a mark, where line breaks are passed over. */
type State = "start" | "reasoning-start" | "reasoning" | "answer-start" | "answer";

export class ReasoningSplitter {
  readonly #isOpened: boolean;
  #state: State = "start";
  /** Not certain yet. */
  #pending = "";

  /** `isOpened`: the prompt ends with `<think>`, so the answer begins in thought. A model may write the mark again. */
  constructor({ isOpened }: { isOpened: boolean }) {
    this.#isOpened = isOpened;
  }

  get isThinking(): boolean {
    return this.#state.startsWith("reasoning") || (this.#state === "start" && this.#isOpened);
  }

  /** Nothing says yet whether the answer begins with thoughts. */
  get isUndecided(): boolean {
    return this.#state === "start" && !this.#isOpened;
  }

  push(piece: string): SplitPart[] {
    this.#pending += piece;
    const parts: SplitPart[] = [];
    while (this.#pending !== "" && this.#step(parts));
    return parts;
  }

  /** What was held back, at the end of the answer. */
  end(): SplitPart[] {
    const rest = this.#pending;
    this.#pending = "";
    const text = this.isThinking ? rest.trimEnd() : rest;
    return text === "" ? [] : [{ type: this.isThinking ? "reasoning" : "text", text }];
  }

  /** Adds what is certain to `parts`. False when more text is needed to go on. */
  #step(parts: SplitPart[]): boolean {
    switch (this.#state) {
      case "start":
        return this.#start();
      case "reasoning-start":
        return this.#skipLineBreaks("reasoning");
      case "reasoning":
        return this.#reason(parts);
      case "answer-start":
        return this.#skipLineBreaks("answer");
      case "answer":
        parts.push({ type: "text", text: this.#pending });
        this.#pending = "";
        return false;
    }
  }

  #start(): boolean {
    const text = this.#pending.trimStart();
    const hasMark = text.startsWith(OPENING);
    if (!hasMark && OPENING.startsWith(text)) return false;
    if (hasMark) this.#pending = text.slice(OPENING.length);
    this.#state = hasMark || this.#isOpened ? "reasoning-start" : "answer";
    return true;
  }

  #reason(parts: SplitPart[]): boolean {
    const text = this.#pending;
    const at = text.indexOf(CLOSING);
    const end = at >= 0 ? at : text.length - partialMarkLength(text, CLOSING);
    const given = text.slice(0, end).replace(/\n+$/, "");
    if (given !== "") parts.push({ type: "reasoning", text: given });
    this.#pending = text.slice(at >= 0 ? at + CLOSING.length : given.length);
    if (at >= 0) this.#state = "answer-start";
    return at >= 0;
  }

  #skipLineBreaks(next: State): boolean {
    this.#pending = this.#pending.replace(/^\n+/, "");
    if (this.#pending !== "") this.#state = next;
    return this.#pending !== "";
  }
}
