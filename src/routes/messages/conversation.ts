/** From the parameters that decide the prompt to a conversation. */
import type { ChatMessage } from "../../engine/client.ts";
import type { Conversation, ToolChoice } from "../conversation/conversation.ts";
import { checkTools, type GivenTools } from "../conversation/tools.ts";
import { refusal } from "../validation.ts";
import type { PromptParameters } from "./parameters.ts";
import { toMessages } from "./to-messages.ts";

export function toConversation(asked: PromptParameters): Conversation {
  const { system, tool_choice, thinking } = asked;
  const messages = toMessages(system, asked.messages);
  return {
    messages,
    ...checkTools(toGivenTools(asked)),
    parallelToolCalls: !(
      tool_choice &&
      "disable_parallel_tool_use" in tool_choice &&
      tool_choice.disable_parallel_tool_use
    ),
    template: { ...toEnd(messages), templateKwargs: toVariables(asked) },
    includeReasoning: !("display" in thinking && thinking.display === "omitted"),
  };
}

/** A last message of the assistant's is the beginning of the answer. */
function toEnd(messages: readonly ChatMessage[]): Conversation["template"] {
  const last = messages.at(-1);
  if (last?.role !== "assistant") return {};
  if (last.content === "" || (last.toolCalls ?? []).length > 0) {
    throw refusal(
      "messages",
      "expected results of the tools that are called last, or text to go on with, got neither",
    );
  }
  return { continueFinalMessage: true, addGenerationPrompt: false };
}

function toGivenTools({ tools, tool_choice }: PromptParameters): GivenTools {
  const toolChoice = toToolChoice(tool_choice);
  if (tools.length === 0) return { toolChoice };
  return {
    tools: tools.map(({ name, description, input_schema: parameters, strict }) => {
      return { name, description, parameters, strict };
    }),
    toolChoice,
  };
}

function toToolChoice(choice: PromptParameters["tool_choice"]): ToolChoice | undefined {
  if (choice === undefined) return undefined;
  if (choice.type === "tool") return { name: choice.name };
  return choice.type === "any" ? "required" : choice.type;
}

/** In the names that templates of models that think know. */
function toVariables({ thinking, output_config: { effort } }: PromptParameters): Record<string, unknown> {
  const isThinking = thinking.type !== "disabled";
  return { enable_thinking: isThinking, thinking: isThinking, ...(effort && { reasoning_effort: effort }) };
}
