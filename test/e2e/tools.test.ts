/**
 * Calls that are made to happen: a model of eight million weights, trained for other things, calls a tool all the same,
 * as every client's own library reads it.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { streamText, tool } from "ai";
import { zodFunction } from "openai/helpers/zod";
import { z } from "zod";
import { type Served, serveTinyModel, tinyName as model } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

let served: Served;
beforeAll(async () => {
  served = await serveTinyModel();
});
afterAll(() => served.close());

/** Short, since every token of a call takes the software adapter its time. */
const parameters = z.object({ on: z.boolean() });
const content = "Light?";
const body = {
  model,
  messages: [{ role: "user" as const, content }],
  tools: [zodFunction({ name: "light", parameters })],
  max_tokens: 80,
};

test("openai, by name: one call, whose arguments match the schema", async () => {
  const tool_choice = { type: "function" as const, function: { name: "light" } };
  const { choices } = await served.openai.chat.completions.parse({ ...body, tool_choice });
  expect([choices[0].finish_reason, choices[0].message.content]).toEqual(["tool_calls", null]);
  expect(choices[0].message.tool_calls).toHaveLength(1);
  const [call] = choices[0].message.tool_calls ?? [];
  parameters.parse("function" in call && call.function.parsed_arguments);
});

test("openai, not at all: an answer as if there were no tools", async () => {
  const { tools, ...plain } = { ...body, max_tokens: 4 };
  const { choices } = await served.openai.chat.completions.create({ ...plain, tools, tool_choice: "none" });
  expect(choices).toEqual((await served.openai.chat.completions.create(plain)).choices);
});

test("the AI SDK, required, streamed", async () => {
  const provider = createOpenAICompatible({ name: "prelude", baseURL: `${served.url}/v1` });
  const answer = streamText({
    model: provider(model),
    prompt: content,
    tools: { light: tool({ inputSchema: parameters }) },
    toolChoice: "required",
    maxOutputTokens: 80,
  });
  const types = (await Array.fromAsync(answer.fullStream)).map(({ type }) => type);
  expect(types.filter((type) => type === "tool-input-delta").length).toBeGreaterThan(1);
  expect(types).not.toContain("text-delta");
  parameters.parse((await answer.toolCalls)[0].input);
});

test("LangChain, structured output by a call", async () => {
  const configuration = { baseURL: `${served.url}/v1` };
  const chat = new ChatOpenAI({ model, apiKey: "unused", configuration, maxTokens: 80 });
  const structured = chat.withStructuredOutput(parameters, { name: "light", method: "functionCalling" });
  parameters.parse(await structured.invoke(content));
});
