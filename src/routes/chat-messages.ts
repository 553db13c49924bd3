/** The messages of `/v1/chat/completions`. */
import { z } from "zod";
import type { ChatMessage } from "../engine/client.ts";
import { CONTENT_PARTS_MAX, MESSAGES_MAX, NAME_CHARS_MAX, TOOLS_MAX } from "../limits.ts";
import { array, object, refusal, stringUpTo } from "./validation.ts";

const textPart = object({
  type: z.literal("text", { error: '"text", as nothing else is supported' }),
  text: z.string({ error: "a string" }),
});

/** A string is one text part; the lines of several are joined, as vLLM and llama-server do. */
const content = z
  .preprocess(
    (value) => (typeof value === "string" ? [{ type: "text", text: value }] : value),
    array(textPart, CONTENT_PARTS_MAX, "a string or an array of text parts"),
  )
  .transform((parts) => parts.map((part) => part.text).join("\n"));

const name = stringUpTo(NAME_CHARS_MAX);
const string = z.string({ error: "a string" });

/** What OpenAI's client adds to an answer's message, which may be sent back as it is. */
const added = z.unknown().optional();

const toolCall = object({
  id: name,
  type: z.literal("function", { error: '"function", as nothing else is supported' }),
  function: object({ name, arguments: string, parsed_arguments: added }),
  index: added,
});

const message = object({
  role: z.enum(["system", "developer", "user", "assistant", "tool"], {
    error: '"system", "developer", "user", "assistant" or "tool"',
  }),
  content: content.optional(),
  name: name.optional(),
  tool_calls: array(toolCall, TOOLS_MAX, "an array of tool calls").optional(),
  tool_call_id: name.optional(),
  reasoning_content: string.optional(),
  reasoning: string.optional(),
  parsed: added,
});

export const messages = array(message, MESSAGES_MAX, "an array of messages").refine(
  (list) => list.length > 0,
  {
    error: "at least one message",
  },
);

type Message = z.output<typeof message>;

/** Throws `InvalidRequestError` for what a role must have or cannot have. */
export function toChatMessage(given: Message, index: number): ChatMessage {
  const { content = "", tool_calls = [], tool_call_id: toolCallId } = given;
  const { reasoning_content, reasoning = reasoning_content } = given;
  checkFields(given, `messages[${index}]`);
  return {
    // OpenAI renamed "system" to "developer"; the templates of open models know the old name only.
    role: given.role === "developer" ? "system" : given.role,
    content,
    name: given.name,
    reasoning,
    toolCalls: tool_calls.map((call) => ({ ...call.function, id: call.id })),
    toolCallId,
  };
}

function checkFields(given: Message, path: string): void {
  const { role, content, tool_calls, tool_call_id } = given;
  const need = (field: string, expected: string) =>
    refusal(`${path}.${field}`, `expected ${expected}, got nothing`);
  const forbid = (field: string, owner: string) =>
    refusal(`${path}.${field}`, `expected it in a message of role "${owner}" only, got role "${role}"`);

  const isAssistant = role === "assistant";
  const { reasoning, reasoning_content } = given;
  if (content === undefined && !(isAssistant && (tool_calls ?? reasoning ?? reasoning_content))) {
    throw need("content", "a string or an array of text parts");
  }
  if (tool_calls && !isAssistant) throw forbid("tool_calls", "assistant");
  if (reasoning !== undefined && !isAssistant) throw forbid("reasoning", "assistant");
  if (reasoning_content !== undefined && !isAssistant) throw forbid("reasoning_content", "assistant");
  if (tool_call_id !== undefined && role !== "tool") throw forbid("tool_call_id", "tool");
  if (tool_call_id === undefined && role === "tool")
    throw need("tool_call_id", "the id of the call it answers");
}
