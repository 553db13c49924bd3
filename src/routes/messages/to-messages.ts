/** From Anthropic's messages to those that a chat template knows. */
import type { ChatMessage } from "../../engine/client.ts";
import type { AssistantBlock, Message, TextBlocks, UserBlock } from "./content.ts";

/** Messages of one role in a row are one turn, as they are to Anthropic; `system` comes first. */
export function toMessages(system: TextBlocks | undefined, messages: readonly Message[]): ChatMessage[] {
  const first: ChatMessage[] = system ? [{ role: "system", content: textOf(system) }] : [];
  const turns = first;
  for (const message of messages.flatMap(toTurns)) {
    const last = turns.at(-1);
    if (last?.role === message.role && last.role !== "tool") turns[turns.length - 1] = join(last, message);
    else turns.push(message);
  }
  return turns;
}

function toTurns(message: Message): ChatMessage[] {
  if (message.role === "assistant") return [toAssistant(message.content)];
  if (message.role === "user") return toUser(message.content);
  return [{ role: "system", content: textOf(message.content) }];
}

/** Results of tools are messages of their own; text between them is the user's. */
function toUser(blocks: readonly UserBlock[]): ChatMessage[] {
  return blocks.map((block) =>
    block.type === "text"
      ? { role: "user", content: block.text }
      : { role: "tool", content: textOf(block.content), toolCallId: block.tool_use_id },
  );
}

function toAssistant(blocks: readonly AssistantBlock[]): ChatMessage {
  const thoughts = blocks.flatMap((block) => (block.type === "thinking" ? [block.thinking] : []));
  return {
    role: "assistant",
    content: textOf(blocks.filter((block) => block.type === "text")),
    ...(thoughts.length > 0 && { reasoning: thoughts.join("\n") }),
    toolCalls: blocks
      .filter((block) => block.type === "tool_use")
      .map(({ id, name, input }) => ({ id, name, arguments: JSON.stringify(input) })),
  };
}

function join(earlier: ChatMessage, later: ChatMessage): ChatMessage {
  const texts = [earlier.content, later.content].filter((text) => text !== "");
  const thoughts = [earlier.reasoning, later.reasoning].filter((text) => text !== undefined);
  return {
    role: earlier.role,
    content: texts.join("\n"),
    ...(thoughts.length > 0 && { reasoning: thoughts.join("\n") }),
    ...(earlier.toolCalls && { toolCalls: [...earlier.toolCalls, ...(later.toolCalls ?? [])] }),
  };
}

function textOf(blocks: readonly { text: string }[]): string {
  return blocks.map(({ text }) => text).join("\n");
}
