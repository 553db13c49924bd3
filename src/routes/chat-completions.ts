/** `POST /v1/chat/completions`: answer a conversation, through the model's chat template. */
import { z } from "zod";
import type { ChatMessage } from "../engine/client.ts";
import { CONTENT_PARTS_MAX, MESSAGES_MAX, TOP_LOGPROBS_MAX } from "../limits.ts";
import { chatChunks, wholeChat } from "./chat-answer.ts";
import { type Conversation, startConversation } from "./conversation/conversation.ts";
import type { Endpoint } from "./endpoint.ts";
import { commonParameters } from "./parameters.ts";
import { array, boolean, integerBetween, object, refusal } from "./validation.ts";

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

const message = object({
  role: z.enum(["system", "developer", "user", "assistant"], {
    error: '"system", "developer", "user" or "assistant"',
  }),
  content,
});

const parameters = object({
  ...commonParameters,
  messages: array(message, MESSAGES_MAX, "an array of messages").refine((list) => list.length > 0, {
    error: "at least one message",
  }),
  logprobs: boolean.optional(),
  top_logprobs: integerBetween(0, TOP_LOGPROBS_MAX).optional(),
});

type ChatParameters = z.output<typeof parameters>;

export const chatCompletions: Endpoint<ChatParameters> = {
  parameters,
  idPrefix: "chatcmpl-",
  start: async (parameters, { services, id, signal }) => {
    const options = { id, parameters, topLogprobs: toTopLogprobs(parameters) };
    const answers = await startConversation(services, toConversation(parameters), options, signal);
    return { whole: (head) => wholeChat(head, answers), chunks: (head) => chatChunks(head, answers) };
  },
};

function toConversation({ messages }: ChatParameters): Conversation {
  return { messages: messages.map(toChatMessage), tools: [], toolChoice: "none", parallelToolCalls: true };
}

function toTopLogprobs({ logprobs = false, top_logprobs = 0 }: ChatParameters): number | undefined {
  if (!logprobs && top_logprobs > 0) {
    throw refusal("top_logprobs", "expected logprobs to be true with it, got a request without");
  }
  return logprobs ? top_logprobs : undefined;
}

/** OpenAI renamed "system" to "developer"; the templates of open models know the old name only. */
function toChatMessage({ role, content }: ChatParameters["messages"][number]): ChatMessage {
  return { role: role === "developer" ? "system" : role, content };
}
