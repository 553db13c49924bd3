/** `POST /v1/chat/completions`: answer a conversation, through the model's chat template. */
import type { z } from "zod";
import { TOP_LOGPROBS_MAX } from "../limits.ts";
import { chatChunks, wholeChat } from "./chat-answer.ts";
import { messages, toChatMessage } from "./chat-messages.ts";
import { promptParameters, toTemplateOptions } from "./chat-prompt.ts";
import { toGivenTools, toolChoice, tools } from "./chat-tools.ts";
import { type Conversation, startConversation } from "./conversation/conversation.ts";
import { checkTools } from "./conversation/tools.ts";
import type { Endpoint } from "./endpoint.ts";
import { toGrammar } from "./output-format.ts";
import { commonParameters } from "./parameters.ts";
import { toPromptView } from "./prompt-view.ts";
import type { ChatSettings } from "./services.ts";
import { boolean, integerBetween, object, refusal } from "./validation.ts";

const parameters = object({
  ...commonParameters,
  ...promptParameters,
  messages,
  tools: tools.optional(),
  tool_choice: toolChoice.optional(),
  parallel_tool_calls: boolean.optional(),
  include_reasoning: boolean.optional(),
  logprobs: boolean.optional(),
  top_logprobs: integerBetween(0, TOP_LOGPROBS_MAX).optional(),
});

type ChatParameters = z.output<typeof parameters>;

export const chatCompletions: Endpoint<ChatParameters> = {
  parameters,
  idPrefix: "chatcmpl-",
  start: async (parameters, { services, id, signal }) => {
    const conversation = toConversation(parameters, services.chat);
    const grammar = toGrammar(parameters);
    const options = { id, parameters, topLogprobs: toTopLogprobs(parameters), grammar };
    const answers = await startConversation(services, conversation, options, signal);
    const view = toPromptView(parameters, services.engine);
    return {
      whole: (head) => wholeChat(head, answers, view),
      chunks: (head) => chatChunks(head, answers, view),
    };
  },
};

function toConversation(parameters: ChatParameters, settings: ChatSettings): Conversation {
  return {
    messages: parameters.messages.map(toChatMessage),
    ...checkTools(toGivenTools(parameters)),
    parallelToolCalls: parameters.parallel_tool_calls ?? true,
    template: toTemplateOptions(parameters, settings),
    includeReasoning: parameters.include_reasoning,
  };
}

function toTopLogprobs({ logprobs = false, top_logprobs = 0 }: ChatParameters): number | undefined {
  if (!logprobs && top_logprobs > 0) {
    throw refusal("top_logprobs", "expected logprobs to be true with it, got a request without");
  }
  return logprobs ? top_logprobs : undefined;
}
