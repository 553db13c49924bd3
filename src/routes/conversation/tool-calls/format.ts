/**
 * How a family of models writes calls of tools: what reads them from an answer, and what makes the model write them.
 *
 * To add a family, write a `ToolCallFormat`, list it in `registry.ts`, and let `src/engine/text/chat-format.ts`
 * recognise its templates (or name it with `--tool-call-parser`).
 */
import type { ToolDefinition } from "../../../engine/client.ts";

/** A part of an answer that is certain. */
export type CallPart =
  | { type: "text"; text: string }
  /** Begins a call. */
  | { type: "call"; name: string }
  /** A piece of the JSON text of the arguments of the call that was begun last. */
  | { type: "arguments"; text: string };

/**
 * Reads one answer. Gives text and calls out as early as it can be sure of them: nothing that may become part of a
 * call's notation is text, and what looked like a call but is none is text in the end, so nothing is lost.
 */
export interface ToolCallParser {
  push(piece: string): CallPart[];
  /** What was held back, at the end of the answer. */
  end(): CallPart[];
}

/** What stands around the arguments of one call, exactly. */
export interface CallFrame {
  begin: string;
  end: string;
}

export interface ToolCallFormat {
  newParser(toolNames: ReadonlySet<string>): ToolCallParser;
  frame(tool: ToolDefinition): CallFrame;
  /** Between two calls. */
  separator: string;
  /** What begins a call and nothing else. */
  trigger: string;
}
