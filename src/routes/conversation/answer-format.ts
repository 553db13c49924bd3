/** How the answers to a conversation are written, as far as it matters for reading them. */
import type { Services } from "../services.ts";
import type { Conversation } from "./conversation.ts";
import type { ToolCallFormat, ToolCallParser } from "./tool-calls/format.ts";
import { toolCallFormats } from "./tool-calls/registry.ts";

export interface AnswerFormat {
  newId: () => string;
  /** Left out: the model does not think, and `<think>` is text. */
  reasoning?: ReasoningFormat;
  toolCalls: ToolCallFormat;
  /** Left out: there are no calls, and what looks like one is text. */
  newParser?: () => ToolCallParser;
  /** Calls of an answer; further ones are left out. */
  callsMax: number;
}

export interface ReasoningFormat {
  /** The prompt ends with `<think>`. */
  isOpened: boolean;
  /** Whether it is told. */
  isIncluded: boolean;
}

/** Tokens at the end of a prompt among which `<think>` is looked for: it may be spelled in several. */
const OPENING_TOKENS_MAX = 16;

export function answerFormat(
  { engine, chat, newId }: Services,
  { tools, toolChoice, parallelToolCalls, template, includeReasoning = true }: Conversation,
  promptIds: readonly number[],
): AnswerFormat {
  const shown = engine.text.chatFormat(template?.chatTemplate);
  const style = chat.toolCallParser === "auto" ? shown.toolCalls : chat.toolCallParser;
  const toolCalls = toolCallFormats[style];
  const thinks = chat.reasoningParser === "auto" ? shown.thinks : chat.reasoningParser === "think";
  const promptEnd = engine.text.decode(promptIds.slice(-OPENING_TOKENS_MAX)).trimEnd();
  const names = new Set(tools.map(({ name }) => name));
  return {
    newId,
    reasoning: thinks ? { isOpened: promptEnd.endsWith("<think>"), isIncluded: includeReasoning } : undefined,
    toolCalls,
    newParser: toolChoice === "none" ? undefined : () => toolCalls.newParser(names),
    callsMax: parallelToolCalls ? Infinity : 1,
  };
}
