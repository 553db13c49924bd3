/** Every route in words: what the description of the API is made of. A test compares it with the routes there are. */
import type { z } from "zod";
import { chatCompletions } from "../chat-completions.ts";
import { completions } from "../completions.ts";
import { embeddingParameters } from "../embeddings.ts";
import { countParameters, parameters as messageParameters } from "../messages/parameters.ts";
import { parameters as responseParameters } from "../responses/parameters.ts";
import { detokenizeParameters, tokenizeParameters } from "../tokenize.ts";

export interface CataloguedRoute {
  method: "get" | "post" | "delete";
  /** As Hono writes it. */
  path: string;
  summary: string;
  /** What is answered; "events" is JSON, or a stream of events where `stream` asks for it. */
  answer: "json" | "events" | "stream" | "text" | "page";
  /** Of a JSON body: its schema, and a body that any model can answer. */
  body?: { schema: z.ZodType; example: object };
}

const message = { role: "user", content: "Translate to French: Where is the station?" };

export const catalogue: readonly CataloguedRoute[] = [
  {
    method: "post",
    path: "/v1/chat/completions",
    summary: "Answer a conversation",
    answer: "events",
    body: { schema: chatCompletions.parameters, example: { messages: [message] } },
  },
  {
    method: "post",
    path: "/v1/completions",
    summary: "Continue raw prompts",
    answer: "events",
    body: { schema: completions.parameters, example: { prompt: "Once upon a time", max_tokens: 16 } },
  },
  {
    method: "post",
    path: "/v1/responses",
    summary: "Answer a conversation, in the shape of OpenAI's newer API",
    answer: "events",
    body: { schema: responseParameters, example: { input: message.content } },
  },
  {
    method: "get",
    path: "/v1/responses/:id",
    summary: "A response that was stored",
    answer: "json",
  },
  {
    method: "delete",
    path: "/v1/responses/:id",
    summary: "Forget a stored response",
    answer: "json",
  },
  {
    method: "get",
    path: "/v1/responses/:id/input_items",
    summary: "What a stored response was asked",
    answer: "json",
  },
  {
    method: "post",
    path: "/v1/messages",
    summary: "Answer a conversation, in the shape of Anthropic's API",
    answer: "events",
    body: { schema: messageParameters, example: { messages: [message], max_tokens: 16 } },
  },
  {
    method: "post",
    path: "/v1/messages/count_tokens",
    summary: "How many tokens a prompt has",
    answer: "json",
    body: { schema: countParameters, example: { messages: [message] } },
  },
  {
    method: "post",
    path: "/v1/embeddings",
    summary: "Texts as vectors",
    answer: "json",
    body: { schema: embeddingParameters, example: { input: message.content } },
  },
  ...["", "/v1"].flatMap((base): CataloguedRoute[] => [
    {
      method: "post",
      path: `${base}/tokenize`,
      summary: "A text or a conversation as token ids",
      answer: "json",
      body: { schema: tokenizeParameters, example: { prompt: message.content } },
    },
    {
      method: "post",
      path: `${base}/detokenize`,
      summary: "Token ids as a text",
      answer: "json",
      body: { schema: detokenizeParameters, example: { tokens: [1, 2, 3] } },
    },
  ]),
  { method: "get", path: "/v1/models", summary: "The models that are served", answer: "json" },
  { method: "get", path: "/v1/models/:name{.+}", summary: "A model by its name", answer: "json" },
  { method: "get", path: "/health", summary: "200 while the server can answer, else 503", answer: "json" },
  { method: "get", path: "/ready", summary: "200 once the model is loaded, else 503", answer: "json" },
  { method: "get", path: "/version", summary: "Of the server, its runtime and its device", answer: "json" },
  { method: "get", path: "/metrics", summary: "Numbers for Prometheus", answer: "text" },
  { method: "get", path: "/live", summary: "The engine's numbers twice a second", answer: "stream" },
  { method: "get", path: "/openapi.json", summary: "This description", answer: "json" },
  { method: "get", path: "/docs", summary: "This description as a page", answer: "page" },
  { method: "get", path: "/", summary: "The playground", answer: "page" },
  { method: "get", path: "/playground/:file", summary: "What the playground is made of", answer: "text" },
];
