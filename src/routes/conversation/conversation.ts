/**
 * What every chat dialect shares: a conversation in plain terms, and the assistant's answers as events.
 *
 * A dialect (`/v1/chat/completions` and its like) turns its body into a `Conversation` and these events into its own
 * objects. Templates, tool calls and reasoning are settled here; wire formats are not known here.
 */
import type { ChatMessage, ChatTemplateOptions, FinishReason, ToolDefinition } from "../../engine/client.ts";
import { startGeneration } from "../generation.ts";
import { toGenerationRequest } from "../generation-request.ts";
import type { CommonParameters } from "../parameters.ts";
import type { Services } from "../services.ts";
import type { NamedEvent, NamedLogprobs } from "../token-names.ts";

/** Whether the model may, must or must not call a tool; by name: it must call that one. */
export type ToolChoice = "none" | "auto" | "required" | { name: string };

export interface Conversation {
  /** At least one. */
  messages: readonly ChatMessage[];
  tools: readonly ToolDefinition[];
  /** "none" without tools. */
  toolChoice: ToolChoice;
  /** Whether an answer may have more than one call. */
  parallelToolCalls: boolean;
  template?: Omit<ChatTemplateOptions, "tools">;
}

/** What an assistant's answers consist of: of each answer (`choice`) any number, then one `finish`. */
export type AssistantEvent =
  | AssistantText
  /** Begins the call of a tool; `index` counts the calls of an answer. */
  | { type: "tool-call"; choice: number; index: number; id: string; name: string }
  /** A piece of the JSON text of a call's arguments. */
  | { type: "tool-arguments"; choice: number; index: number; text: string }
  | AssistantFinish;

/** Text of the answer, or of the thoughts before it. */
export interface AssistantText {
  type: "text" | "reasoning";
  choice: number;
  text: string;
  /** Log-probabilities, if the request asked for them, of tokens since the last of these events. */
  tokens: readonly NamedLogprobs[];
}

export interface AssistantFinish {
  type: "finish";
  choice: number;
  reason: FinishReason | "tool_calls";
  /** Of the request's own stop strings and ids, what ended the answer. */
  stop?: string | number;
  promptTokens: number;
  completionTokens: number;
  /** Of the completion's. */
  reasoningTokens: number;
}

export interface ConversationOptions {
  /** Of the engine's request. */
  id: string;
  /** Sampling and priority, in the names of OpenAI's chat, to which other dialects translate theirs. */
  parameters: CommonParameters;
  /** How many likely tokens to list beside each chosen one; undefined for no log-probabilities. */
  topLogprobs: number | undefined;
}

/** The assistant's answers to a conversation, which are under way. */
export interface AssistantAnswers {
  choiceCount: number;
  promptTokens: number;
  /** Throws what the engine throws. */
  events: AsyncIterable<AssistantEvent>;
}

/** Asks the model for the next message. Resolves when the first event is there, so that an early failure can still choose an HTTP status. */
export async function startConversation(
  services: Services,
  conversation: Conversation,
  options: ConversationOptions,
  signal: AbortSignal,
): Promise<AssistantAnswers> {
  const { engine } = services;
  const { messages, template } = conversation;
  const promptIds = engine.text.encodeChat(messages, template);
  const request = toGenerationRequest(services, { promptIds }, { ...options, maxTokensDefault: Infinity });
  const { events, choiceCount } = await startGeneration(engine, request, signal);
  return { choiceCount, promptTokens: promptIds.length, events: toAssistantEvents(events) };
}

async function* toAssistantEvents(events: AsyncIterable<NamedEvent>): AsyncGenerator<AssistantEvent> {
  for await (const event of events) {
    const { choice, tokens } = event;
    if (event.type === "text") {
      if (event.text !== "" || tokens.length > 0) yield { type: "text", choice, text: event.text, tokens };
    } else {
      const { reason, stop, promptTokens, completionTokens } = event;
      yield { type: "finish", choice, reason, stop, promptTokens, completionTokens, reasoningTokens: 0 };
    }
  }
}
