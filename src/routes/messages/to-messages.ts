/** From Anthropic's messages to those that a chat template knows. */
import type { ChatMessage } from "../../engine/client.ts";
import type { AssistantBlock, Message, TextBlocks, UserBlock } from "./content.ts";

/** Messages of one role in a row are one turn, as they are to Anthropic; `system` comes first. */
export function toMessages(system: TextBlocks | undefined, messages: readonly Message[]): ChatMessage[] {
  const first: ChatMessage[] = system ? [{ role: "system", content: textOf(system) }] : [];
  return toRuns([first, ...messages.map(toTurns)].flat()).map(join);
}

/** Messages of one role in a row, but each result of a tool by itself. */
function toRuns(messages: readonly ChatMessage[]): ChatMessage[][] {
  const runs: ChatMessage[][] = [];
  for (const message of messages) {
    const run = runs.at(-1);
    if (run?.[0].role === message.role && message.role !== "tool") run.push(message);
    else runs.push([message]);
  }
  return runs;
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

function join(run: readonly ChatMessage[]): ChatMessage {
  if (run.length === 1) return run[0];
  const thoughts = run.flatMap(({ reasoning }) => reasoning ?? []);
  const toolCalls = run.flatMap(({ toolCalls = [] }) => toolCalls);
  return {
    role: run[0].role,
    content: run
      .map(({ content }) => content)
      .filter((content) => content !== "")
      .join("\n"),
    ...(thoughts.length > 0 && { reasoning: thoughts.join("\n") }),
    ...(toolCalls.length > 0 && { toolCalls }),
  };
}

function textOf(blocks: readonly { text: string }[]): string {
  return blocks.map(({ text }) => text).join("\n");
}
