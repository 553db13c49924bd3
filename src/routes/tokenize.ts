/** `POST /tokenize` and `/detokenize`, in vLLM's shapes: text or a conversation to ids, and ids to text. */
import type { Context } from "hono";
import { z } from "zod";
import { TOKENS_MAX } from "../limits.ts";
import { readJson } from "./body.ts";
import { messages, toChatMessage } from "./chat-messages.ts";
import { promptParameters, toTemplateOptions } from "./chat-prompt.ts";
import { toGivenTools, tools } from "./chat-tools.ts";
import { toPrompt } from "./conversation/conversation.ts";
import { checkTools } from "./conversation/tools.ts";
import { checkModel, commonParameters } from "./parameters.ts";
import type { AppEnv, Services } from "./services.ts";
import { checkIds, tokenIds } from "./token-parameters.ts";
import { boolean, object, only, validate } from "./validation.ts";

const { model } = commonParameters;
const return_token_strs = boolean.optional();

const ofText = object({
  prompt: z.string({ error: "a string" }),
  add_special_tokens: boolean.optional(),
  ...{ model, return_token_strs },
});

const ofMessages = object({
  messages,
  ...promptParameters,
  tools: tools.optional(),
  /** The template has them all. */
  add_special_tokens: only(false).optional(),
  ...{ model, return_token_strs },
});

/** What `tokenize` takes, as one: for the description of the API. */
export const tokenizeParameters = z.union([ofText, ofMessages]);

export const detokenizeParameters = object({
  tokens: tokenIds({ countMin: 0, countMax: TOKENS_MAX }),
  model,
});

type Handler = (c: Context<AppEnv>) => Promise<Response>;

export function tokenize(services: Services): Handler {
  return async (c) => {
    const { text, model: card } = services.engine;
    const body = await readJson(c.req.raw, services.startTimer);
    const { asked, tokens } = hasMessages(body) ? fromMessages(body, services) : fromText(body, services);
    if (asked.model !== undefined) checkModel(asked.model, card);
    const token_strs = asked.return_token_strs ? tokens.map((id) => text.spell(id)) : null;
    return c.json({ count: tokens.length, max_model_len: card.maxModelLen, tokens, token_strs });
  };
}

export function detokenize(services: Services): Handler {
  return async (c) => {
    const { engine } = services;
    const asked = validate(detokenizeParameters, await readJson(c.req.raw, services.startTimer));
    if (asked.model !== undefined) checkModel(asked.model, engine.model);
    checkIds("tokens", asked.tokens, engine.model);
    return c.json({ prompt: engine.text.decode(asked.tokens, { skipSpecialTokens: false }) });
  };
}

function hasMessages(body: unknown): boolean {
  return typeof body === "object" && body !== null && "messages" in body;
}

function fromText(body: unknown, { engine }: Services) {
  const asked = validate(ofText, body);
  const { prompt, add_special_tokens: addSpecialTokens } = asked;
  return { asked, tokens: engine.text.encodePrompt(prompt, { addSpecialTokens }) };
}

function fromMessages(body: unknown, services: Services) {
  const asked = validate(ofMessages, body);
  const conversation = {
    messages: asked.messages.map(toChatMessage),
    ...checkTools(toGivenTools(asked)),
    parallelToolCalls: true,
    template: toTemplateOptions(asked, services.chat),
  };
  return { asked, tokens: toPrompt(services, conversation).promptIds };
}
