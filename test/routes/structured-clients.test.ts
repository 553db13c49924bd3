/** Structured answers as each client's own library asks for them and reads them. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { generateObject, generateText, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import type { Grammar } from "../../src/engine/client.ts";
import { say } from "../support/scripted-client.ts";
import { type ScriptedServer, serveScripted } from "./client-support.ts";

let server: ScriptedServer;
let openai: OpenAI;
let provider: ReturnType<typeof createOpenAICompatible>;
let langchain: ChatOpenAI;
beforeAll(async () => {
  server = await serveScripted({ thinks: false });
  const { baseURL } = server;
  openai = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
  provider = createOpenAICompatible({ name: "prelude", baseURL, supportsStructuredOutputs: true });
  langchain = new ChatOpenAI({ model, apiKey: "unused", maxRetries: 0, configuration: { baseURL } });
});
afterAll(() => server.close());

const model = "scripted";
const city = z.object({ city: z.string() });
const paris = { city: "Paris" };
const messages = [{ role: "user" as const, content: "Where?" }];
const sayParis = say('{"city":', ' "Par', 'is"}');

function lastGrammar(): Grammar | undefined {
  return server.engine.submissions.at(-1)?.request.sampling.grammar;
}

/** The schema that the engine was asked to enforce, however much more of it the client said. */
function expectSchema(): void {
  const properties = { city: { type: "string" } };
  expect(lastGrammar()).toMatchObject({ type: "json-schema", schema: { type: "object", properties } });
}

test("openai: parse, whole and streamed", async () => {
  server.engine.script = sayParis;
  const body = { model, messages, response_format: zodResponseFormat(city, "place") };
  const { choices } = await openai.chat.completions.parse(body);
  expect(choices[0].message.parsed).toEqual(paris);
  expectSchema();
  const streamed = await openai.chat.completions.stream(body).finalChatCompletion();
  expect(streamed.choices[0].message.parsed).toEqual(paris);
});

test("openai: JSON of any kind", async () => {
  server.engine.script = sayParis;
  const response_format = { type: "json_object" as const };
  const { choices } = await openai.chat.completions.create({ model, messages, response_format });
  expect(JSON.parse(choices[0].message.content ?? "")).toEqual(paris);
  expect(lastGrammar()?.type).toBe("json-object");
});

test("openai: with tools the answer is a call or matches", async () => {
  const tools = [zodFunction({ name: "weather", parameters: city })];
  const body = { model, messages, tools, response_format: zodResponseFormat(city, "place") };
  server.engine.script = say('<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>');
  expect((await openai.chat.completions.parse(body)).choices[0].finish_reason).toBe("tool_calls");
  expect(lastGrammar()).toMatchObject({ type: "structural-tag", tag: { format: { type: "or" } } });
  server.engine.script = sayParis;
  expect((await openai.chat.completions.parse(body)).choices[0].message.parsed).toEqual(paris);
});

test("the AI SDK: generateObject, and output of text", async () => {
  server.engine.script = sayParis;
  const request = { model: provider(model), prompt: "Where?", maxRetries: 0 };
  expect((await generateObject({ ...request, schema: city })).object).toEqual(paris);
  expectSchema();
  const output = Output.object({ schema: city });
  expect((await generateText({ ...request, output })).output).toEqual(paris);
  const partial = await Array.fromAsync(streamText({ ...request, output }).partialOutputStream);
  expect(partial.at(-1)).toEqual(paris);
});

test("the AI SDK: a tool that must be called", async () => {
  const tools = { weather: tool({ inputSchema: city }) };
  server.engine.script = say('<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>');
  const request = { model: provider(model), prompt: "Where?", tools };
  const { toolCalls } = await generateText({ ...request, toolChoice: "required" });
  expect(toolCalls.map(({ input }) => input)).toEqual([paris]);
  expect(lastGrammar()).toMatchObject({ tag: { format: { type: "tags_with_separator" } } });
});

test("LangChain: withStructuredOutput, by a schema and by a call", async () => {
  server.engine.script = sayParis;
  const bySchema = langchain.withStructuredOutput(city, { name: "place", method: "jsonSchema" });
  expect(await bySchema.invoke("Where?")).toEqual(paris);
  expectSchema();
  server.engine.script = say('<tool_call>{"name": "place", "arguments": {"city": "Paris"}}</tool_call>');
  const byCall = langchain.withStructuredOutput(city, { name: "place", method: "functionCalling" });
  expect(await byCall.invoke("Where?")).toEqual(paris);
  expect(lastGrammar()).toMatchObject({ tag: { format: { type: "tags_with_separator" } } });
});
