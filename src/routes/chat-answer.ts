/** The answer objects of `/v1/chat/completions`, whole and in chunks. */
import type { ToolCall } from "../engine/client.ts";
import { type AnswerHead, ChunkMaker, type StreamHead, toChoice, toUsage } from "./answer.ts";
import { type AssistantMessage, collectMessages } from "./conversation/assistant-message.ts";
import type { AssistantAnswers, AssistantEvent, AssistantFinish } from "./conversation/conversation.ts";
import { chatLogprobs } from "./logprobs.ts";
import { namedPrompt, promptFields, type PromptView } from "./prompt-view.ts";
import type { NamedLogprobs } from "./token-names.ts";

export async function wholeChat(
  head: AnswerHead,
  answers: AssistantAnswers,
  view: PromptView,
): Promise<object> {
  const { prompt, tally } = answers;
  const ofPrompt = promptFields(prompt, await namedPrompt(prompt, view), view);
  const messages = await collectMessages(answers);
  const choices = messages.map((message, index) => {
    const { reason, stop } = message.finish;
    const part = { ...toMessage(message), ...(view.showTokenIds && { token_ids: tally.takeIds(index) }) };
    return toChoice({ index, part, logprobs: toLogprobs(message.tokens), reason, stop });
  });
  const usage = toUsage(messages.map(({ finish }) => finish));
  return { ...head, object: "chat.completion", choices, usage, ...ofPrompt };
}

function toMessage({ text, reasoning, toolCalls }: AssistantMessage): object {
  const thoughts = reasoning === "" ? {} : { reasoning_content: reasoning, reasoning };
  const message = { role: "assistant", content: text, refusal: null, ...thoughts };
  if (toolCalls.length === 0) return { message };
  return {
    message: { ...message, content: text === "" ? null : text, tool_calls: toolCalls.map(toToolCall) },
  };
}

function toToolCall({ id, name, arguments: text }: ToolCall): object {
  return { id, type: "function", function: { name, arguments: text } };
}

/** Of each answer the role, its deltas as they come, and a last chunk with the reason; at last the usage, if asked for. */
export async function* chatChunks(
  head: StreamHead,
  { events, choiceCount, prompt, tally }: AssistantAnswers,
  view: PromptView,
): AsyncGenerator<object> {
  const chunks = new ChunkMaker("chat.completion.chunk", head, tally);
  for (let index = 0; index < choiceCount; index++) {
    const opening = chunks.choice({ index, part: { delta: { role: "assistant", content: "" } } });
    yield index === 0 ? { ...opening, ...promptFields(prompt, [], view) } : opening;
  }
  const idsOf = (index: number) => (view.showTokenIds ? { token_ids: tally.takeIds(index) } : {});
  const finishes: AssistantFinish[] = [];
  for await (const event of events) {
    const { choice: index } = event;
    if (event.type === "finish") {
      finishes.push(event);
      const part = { delta: {}, ...idsOf(index) };
      yield chunks.choice({ index, part, reason: event.reason, stop: event.stop });
    } else {
      const logprobs = "tokens" in event ? toLogprobs(event.tokens) : null;
      yield chunks.choice({ index, part: { delta: toDelta(event), ...idsOf(index) }, logprobs });
    }
  }
  if (head.includeUsage) yield chunks.usage(finishes);
}

function toDelta(event: Exclude<AssistantEvent, AssistantFinish>): object {
  switch (event.type) {
    case "text":
      return { content: event.text };
    case "reasoning":
      return { reasoning_content: event.text, reasoning: event.text };
    case "tool-call": {
      const { index, id, name } = event;
      return { tool_calls: [{ index, id, type: "function", function: { name, arguments: "" } }] };
    }
    case "tool-arguments":
      return { tool_calls: [{ index: event.index, function: { arguments: event.text } }] };
  }
}

function toLogprobs(tokens: readonly NamedLogprobs[]): object | null {
  return tokens.length > 0 ? chatLogprobs(tokens) : null;
}
