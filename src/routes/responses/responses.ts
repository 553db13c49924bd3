/** `POST /v1/responses`: answer a conversation, in the shape of OpenAI's newer API. */
import type { Grammar } from "../../engine/client.ts";
import { effortVariables } from "../chat-prompt.ts";
import { toBlocks } from "../conversation/blocks.ts";
import { type Conversation, startConversation } from "../conversation/conversation.ts";
import { checkTools, type GivenTools } from "../conversation/tools.ts";
import type { Endpoint, StartOptions } from "../endpoint.ts";
import { dataEvents, namedFrame } from "../sse.ts";
import { refusal } from "../validation.ts";
import { gather, type Gathered } from "./gathered-input.ts";
import { parameters, type ResponseParameters } from "./parameters.ts";
import { toHead } from "./response-object.ts";
import type { ResponseStore } from "./response-store.ts";
import { ResponseStream } from "./response-stream.ts";
import { toMessages } from "./to-messages.ts";

export function responses(store: ResponseStore): Endpoint<ResponseParameters> {
  return { parameters, idPrefix: "resp_", start: (asked, options) => start(asked, options, store) };
}

async function start(asked: ResponseParameters, options: StartOptions, store: ResponseStore) {
  const { services, id, created, signal } = options;
  const { engine, clock, newId } = services;
  const gathered = gather(asked, store, newId);
  const request = { id, parameters: asked, topLogprobs: toTopLogprobs(asked), grammar: toGrammar(asked) };
  const answers = await startConversation(services, toConversation(asked, gathered), request, signal);
  const stream = new ResponseStream({
    head: toHead(asked, { id, created }, engine.model),
    newId,
    now: () => Math.floor(clock() / 1000),
    onEnd: (response) => {
      if (asked.store) store.put({ response, input: gathered.sent });
    },
  });
  return {
    whole: () => stream.whole(toBlocks(answers)),
    chunks: () => stream.events(toBlocks(answers)),
    format: { ...dataEvents, frame: namedFrame, failure: (error: unknown) => stream.fail(error) },
  };
}

function toConversation(asked: ResponseParameters, { items }: Gathered): Conversation {
  const { instructions, parallel_tool_calls: parallelToolCalls, reasoning } = asked;
  const messages = toMessages(items);
  if (instructions !== undefined) messages.unshift({ role: "system", content: instructions });
  if (messages.length === 0) throw refusal("input", "expected at least one item, got none");
  const template = { templateKwargs: effortVariables(reasoning.effort) };
  return { messages, ...checkTools(toGivenTools(asked)), parallelToolCalls, template };
}

/** OpenAI's clients send neutral values, which chat refuses: no tools in an array, and "auto" beside them. */
function toGivenTools({ tools, tool_choice: choice }: ResponseParameters): GivenTools {
  const toolChoice = typeof choice === "object" ? { name: choice.name } : choice;
  if (tools.length === 0) return { toolChoice: toolChoice === "auto" ? undefined : toolChoice };
  return { tools: tools.map(({ type: _, ...tool }) => tool), toolChoice };
}

/** What the text must match. */
function toGrammar({ text: { format } }: ResponseParameters): Grammar | undefined {
  const param = "text.format";
  switch (format.type) {
    case "text":
      return undefined;
    case "json_object":
      return { type: "json-object", param };
    case "json_schema":
      return { type: "json-schema", schema: format.schema, param };
  }
}

function toTopLogprobs({ include, top_logprobs = 0 }: ResponseParameters): number | undefined {
  if (include.length > 0) return top_logprobs;
  if (top_logprobs === 0) return undefined;
  throw refusal(
    "top_logprobs",
    "expected include to have message.output_text.logprobs with it, got a request without",
  );
}
