/**
 * What every chat dialect shares: a conversation in plain terms, and the assistant's answers as events.
 *
 * A dialect (`/v1/chat/completions` and its like) turns its body into a `Conversation` and these events into its own
 * objects. Templates, tool calls and reasoning are settled here; wire formats are not known here.
 */
import type {
  ChatMessage,
  ChatTemplateOptions,
  FinishReason,
  Grammar,
  ToolDefinition,
} from "../../engine/client.ts";
import { type Generation, type StartedPrompt, startGeneration } from "../generation.ts";
import { type Prompt, toGenerationRequest } from "../generation-request.ts";
import type { CommonParameters } from "../parameters.ts";
import type { Services } from "../services.ts";
import type { NamedLogprobs } from "../token-names.ts";
import type { TokenTally } from "../token-tally.ts";
import { AnswerReader } from "./answer-reader.ts";
import { type AnswerFormat, answerFormat } from "./answer-format.ts";
import { answerGrammar } from "./answer-grammar.ts";

/** Whether the model may, must or must not call a tool; by name: it must call that one. */
export type ToolChoice = "none" | "auto" | "required" | { name: string };

export interface Conversation {
  /** At least one. */
  messages: readonly ChatMessage[];
  /** As `checkTools` left them. */
  tools: readonly ToolDefinition[];
  toolChoice: ToolChoice;
  /** Whether an answer may have more than one call. */
  parallelToolCalls: boolean;
  template?: Omit<ChatTemplateOptions, "tools">;
  /** Whether what the model thinks is told; true by default. */
  includeReasoning?: boolean;
}

/** What an assistant's answers consist of: of each answer (`choice`) any number, then one `finish`. */
export type AssistantEvent =
  | AssistantText
  /** Begins the call of a tool; `index` counts the calls of an answer. */
  | { type: "tool-call"; choice: number; index: number; id: string; name: string }
  /** A piece of the JSON text of the call's arguments. */
  | { type: "tool-arguments"; choice: number; index: number; text: string }
  | AssistantFinish;

/** Text of the answer, or of the thoughts before it. */
export interface AssistantText {
  type: "text" | "reasoning";
  choice: number;
  /** "" where there is nothing but tokens to tell. */
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
  /** Of the prompt's, if the engine tells. */
  cachedTokens?: number;
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
  /** What the text of an answer must match; calls and thoughts need not. */
  grammar?: Grammar;
}

/** The assistant's answers to a conversation, which are under way. */
export interface AssistantAnswers {
  choiceCount: number;
  promptTokens: number;
  /** As the model saw it, with what the engine tells of it. */
  prompt: StartedPrompt;
  /** Grows as the events are taken. */
  tally: TokenTally;
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
  const prompt = toPrompt(services, conversation);
  const format = answerFormat(services, conversation, prompt.promptIds);
  const grammar = answerGrammar(conversation, format, options.grammar);
  const request = toGenerationRequest(services, prompt, { ...options, maxTokensDefault: Infinity, grammar });
  const generation = await startGeneration(engine, request, signal);
  const { choiceCount, tally } = generation;
  const [started] = generation.prompts;
  const events = readAnswers(generation, format);
  return { choiceCount, promptTokens: tally.promptTokens, prompt: started, tally, events };
}

/** Throws `InvalidRequestError` for what the model's template refuses. */
export function toPrompt(
  { engine }: Services,
  { messages, tools, toolChoice, template = {} }: Conversation,
): Prompt {
  const options = { ...template, tools: toolChoice === "none" ? [] : tools };
  const promptIds = engine.text.encodeChat(messages, options);
  if (!engine.model.isPrefixLm || !template.continueFinalMessage) return { promptIds };
  // The model wrote that message itself, or should think so: it is read as an answer is, and what came before as a prompt.
  const asked = { ...options, continueFinalMessage: false, addGenerationPrompt: true };
  const askedIds = engine.text.encodeChat(messages.slice(0, -1), asked);
  const firstOther = askedIds.findIndex((id, index) => id !== promptIds[index]);
  return { promptIds, prefixLength: firstOther < 0 ? askedIds.length : firstOther };
}

async function* readAnswers(
  { events, choiceCount }: Generation,
  format: AnswerFormat,
): AsyncGenerator<AssistantEvent> {
  const readers = Array.from({ length: choiceCount }, (_, choice) => new AnswerReader(choice, format));
  for await (const event of events) yield* readers[event.choice].read(event);
}
