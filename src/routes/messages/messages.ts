/** `POST /v1/messages` and its `count_tokens`: answer a conversation, in the shape of Anthropic's API. */
import type { Context } from "hono";
import type { Grammar } from "../../engine/client.ts";
import { readJson } from "../body.ts";
import { toBlocks } from "../conversation/blocks.ts";
import { startConversation, toPrompt } from "../conversation/conversation.ts";
import type { Endpoint } from "../endpoint.ts";
import { toMessagesError } from "../errors.ts";
import { checkModel } from "../parameters.ts";
import type { AppEnv, Services } from "../services.ts";
import { namedFrame, type SseFormat } from "../sse.ts";
import { validate } from "../validation.ts";
import { messageEvents, wholeMessage } from "./answer.ts";
import { toConversation } from "./conversation.ts";
import { countParameters, type MessageParameters, parameters } from "./parameters.ts";

export const messages: Endpoint<MessageParameters> = {
  parameters,
  idPrefix: "msg_",
  start: async (asked, { services, id, requestId, signal }) => {
    const options = { id, parameters: asked, topLogprobs: undefined, grammar: toGrammar(asked) };
    const answers = await startConversation(services, toConversation(asked), options, signal);
    const { promptTokens } = answers;
    const head = { id, model: services.engine.model.id, promptTokens, maxTokens: asked.max_tokens };
    return {
      whole: () => wholeMessage(head, toBlocks(answers)),
      chunks: () => messageEvents(head, toBlocks(answers)),
      format: messagesFormat(requestId),
    };
  },
};

/** What the text must match. */
function toGrammar({ output_config: { format } }: MessageParameters): Grammar | undefined {
  return format && { type: "json-schema", schema: format.schema, param: "output_config.format" };
}

function messagesFormat(requestId: string): SseFormat {
  return {
    frame: namedFrame,
    ping: namedFrame({ type: "ping" }),
    end: "",
    failure: (error) => [toMessagesError(error, requestId)],
  };
}

/** How many tokens a prompt has; it may be longer than the context. */
export function countTokens(services: Services): (c: Context<AppEnv>) => Promise<Response> {
  return async (c) => {
    const asked = validate(countParameters, await readJson(c.req.raw, services.startTimer));
    if (asked.model !== undefined) checkModel(asked.model, services.engine.model);
    return c.json({ input_tokens: toPrompt(services, toConversation(asked)).promptIds.length });
  };
}
