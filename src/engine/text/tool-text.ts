/**
 * Tools in plain text, in the manner of Hermes, for a chat template that has no idea of them: what there is to call,
 * what was called, and what came of it become the text of ordinary messages.
 */
import type { ChatMessage, ToolCall, ToolDefinition } from "../client.ts";

/** `isSingleTurn`: the template shows the last message only, so everything must be in there. */
export function toolsAsText(
  messages: readonly ChatMessage[],
  tools: readonly ToolDefinition[],
  isSingleTurn: boolean,
): ChatMessage[] {
  if (!isSingleTurn) return asTurns(tools.length > 0 ? withSystemText(messages, listed(tools)) : messages);
  // What the last user asked and what followed, under the list of tools.
  const start = Math.max(
    0,
    messages.findLastIndex(({ role }) => role === "user"),
  );
  const shown = messages.slice(start).map(textOf);
  const texts = tools.length > 0 ? [listed(tools), ...shown] : shown;
  return [{ role: "user", content: texts.join("\n\n") }];
}

function listed(tools: readonly ToolDefinition[]): string {
  const lines = tools.map(({ name, description, parameters }) =>
    // Which draft of JSON Schema it is costs tokens and tells a model nothing.
    JSON.stringify({ name, description, parameters: parameters && { ...parameters, $schema: undefined } }),
  );
  return [
    "You can call these tools:",
    ...lines,
    "To call one, write:",
    '<tool_call>\n{"name": "its name", "arguments": {its arguments}}\n</tool_call>',
  ].join("\n");
}

function withSystemText(messages: readonly ChatMessage[], text: string): ChatMessage[] {
  const [first, ...rest] = messages;
  if (first.role !== "system") return [{ role: "system", content: text }, ...messages];
  return [{ ...first, content: `${first.content}\n\n${text}` }, ...rest];
}

/** Messages of plain roles. What tools answer in a row is one turn, since many templates insist on alternation. */
function asTurns(messages: readonly ChatMessage[]): ChatMessage[] {
  const turns: ChatMessage[] = [];
  for (const [index, message] of messages.entries()) {
    const content = textOf(message);
    const last = turns.at(-1);
    if (message.role !== "tool") turns.push({ ...message, content, toolCalls: undefined });
    else if (last && messages[index - 1].role === "tool") last.content += `\n${content}`;
    else turns.push({ role: "user", content });
  }
  return turns;
}

function textOf({ role, content, toolCalls = [] }: ChatMessage): string {
  if (role === "tool") return `<tool_response>\n${content}\n</tool_response>`;
  return [...(content === "" ? [] : [content]), ...toolCalls.map(callText)].join("\n");
}

function callText({ name, arguments: text }: ToolCall): string {
  return `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": ${text}}\n</tool_call>`;
}
