/** From items to the messages that a chat template knows. */
import type { ChatMessage } from "../../engine/client.ts";
import type { Item } from "./items.ts";

/** An assistant's thoughts, words and calls are items of their own here, but one message in a template. */
export function toMessages(items: readonly Item[]): ChatMessage[] {
  const messages: ChatMessage[] = [];
  for (const item of items) {
    const last = messages.at(-1);
    const joined = last?.role === "assistant" ? join(last, item) : null;
    if (joined) messages[messages.length - 1] = joined;
    else messages.push(toMessage(item));
  }
  return messages;
}

/** The message with the item as its next part, or null if that begins another. */
function join(message: ChatMessage, item: Item): ChatMessage | null {
  const calls = message.toolCalls ?? [];
  if (item.type === "function_call") return { ...message, toolCalls: [...calls, toToolCall(item)] };
  const isOpen = message.content === "" && calls.length === 0;
  if (item.type === "message" && item.role === "assistant" && isOpen) {
    return { ...message, content: textOf(item.content) };
  }
  return null;
}

function toMessage(item: Item): ChatMessage {
  switch (item.type) {
    case "message":
      return { role: item.role === "developer" ? "system" : item.role, content: textOf(item.content) };
    case "function_call":
      return { role: "assistant", content: "", toolCalls: [toToolCall(item)] };
    case "function_call_output":
      return { role: "tool", content: textOf(item.output), toolCallId: item.call_id };
    case "reasoning":
      return { role: "assistant", content: "", reasoning: thoughtsOf(item) };
  }
}

type FunctionCall = Extract<Item, { type: "function_call" }>;
type Reasoning = Extract<Item, { type: "reasoning" }>;

function toToolCall({ call_id, name, arguments: text }: FunctionCall) {
  return { id: call_id, name, arguments: text };
}

/** The thoughts themselves; their summary, if that is all there is. */
function thoughtsOf({ content, summary }: Reasoning): string {
  return textOf(content.length > 0 ? content : summary);
}

function textOf(parts: readonly { text: string }[]): string {
  return parts.map(({ text }) => text).join("\n");
}
