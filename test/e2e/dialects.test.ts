/** The newer APIs with the clients they are made for, unmodified, against the real engine behind a socket. */
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, Output, streamText } from "ai";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { type Served, serveTinyModel, tinyModel, tinyName as model } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const golden = JSON.parse(readFileSync(`${tinyModel}/golden.json`, "utf8")) as {
  prompt: string;
  output_text: string;
}[];
/** 12 tokens; the answer "Où est la gare ?" has 6 with its end. */
const { prompt, output_text: answer } = golden[0];

/** Short, since every token of it takes the software adapter its time. */
const light = z.object({ on: z.boolean() });

let served: Served;
beforeAll(async () => {
  served = await serveTinyModel({ maxModelLen: 256 });
});
afterAll(() => served.close());

describe("OpenAI's client, /v1/responses", () => {
  test("whole and streamed", async () => {
    const asked = { model, input: prompt };
    const { output_text, usage, status } = await served.openai.responses.create(asked);
    expect([output_text, status]).toEqual([answer, "completed"]);
    expect([usage?.input_tokens, usage?.output_tokens]).toEqual([12, 6]);
    const pieces: string[] = [];
    const stream = served.openai.responses.stream(asked);
    stream.on("response.output_text.delta", ({ delta }) => pieces.push(delta));
    expect((await stream.finalResponse()).output_text).toBe(answer);
    expect(pieces).toEqual(["Où", " est", " la", " gare", " ?"]);
  });

  test("with log-probabilities, and cut", async () => {
    const { output, status } = await served.openai.responses.create({
      model,
      input: prompt,
      max_output_tokens: 2,
      include: ["message.output_text.logprobs"],
      top_logprobs: 2,
    });
    expect([status, output]).toMatchObject([
      "incomplete",
      [{ content: [{ text: "Où est", logprobs: [{ token: "Où" }, { token: " est" }] }] }],
    ]);
  });

  test("parsed by a schema", async () => {
    const format = zodTextFormat(light, "light");
    const body = { model, input: "Light?", max_output_tokens: 60, text: { format } };
    const { output_parsed } = await served.openai.responses.parse(body);
    light.parse(output_parsed);
    const streamed = await served.openai.responses.stream(body).finalResponse();
    expect(streamed.output_parsed).toEqual(output_parsed);
  });

  test("gone on from by id", async () => {
    const { id } = await served.openai.responses.create({ model, input: "What is 1 + 1?", store: true });
    const next = await served.openai.responses.create({ model, input: prompt, previous_response_id: id });
    expect(next.output_text).toBe(answer);
  });
});

describe("the AI SDK, by its default /v1/responses", () => {
  const provided = () => createOpenAI({ baseURL: `${served.url}/v1`, apiKey: "unused" })(model);

  test("whole and streamed", async () => {
    const { text, usage } = await generateText({ model: provided(), prompt });
    expect([text, usage.inputTokens, usage.outputTokens]).toEqual([answer, 12, 6]);
    const { textStream } = streamText({ model: provided(), prompt });
    expect(await Array.fromAsync(textStream)).toEqual(["Où", " est", " la", " gare", " ?"]);
  });

  test("an object", async () => {
    const asked = { model: provided(), prompt: "Light?", maxOutputTokens: 60 };
    const { output } = await generateText({ ...asked, output: Output.object({ schema: light }) });
    light.parse(output);
  });
});

describe("Anthropic's client, /v1/messages", () => {
  let anthropic: Anthropic;
  const asked = { model, max_tokens: 50, messages: [{ role: "user" as const, content: prompt }] };
  beforeAll(() => {
    anthropic = new Anthropic({ baseURL: served.url, apiKey: "unused", maxRetries: 0 });
  });

  test("whole and streamed", async () => {
    const message = await anthropic.messages.create(asked);
    expect(message).toMatchObject({
      content: [{ type: "text", text: answer }],
      stop_reason: "end_turn",
      usage: { output_tokens: 6 },
    });
    const { input_tokens, cache_read_input_tokens } = message.usage;
    expect(input_tokens + (cache_read_input_tokens ?? 0)).toBe(12);
    const pieces: string[] = [];
    const stream = anthropic.messages.stream(asked);
    stream.on("text", (piece) => pieces.push(piece));
    const streamed = await stream.finalMessage();
    expect(streamed.content).toMatchObject(message.content);
    expect(pieces).toEqual(["Où", " est", " la", " gare", " ?"]);
  });

  test("how it ended", async () => {
    const stopped = await anthropic.messages.create({ ...asked, stop_sequences: ["x", "t la ga"] });
    expect([stopped.content, stopped.stop_reason, stopped.stop_sequence]).toMatchObject([
      [{ text: "Où es" }],
      "stop_sequence",
      "t la ga",
    ]);
    const cut = await anthropic.messages.create({ ...asked, max_tokens: 3 });
    expect([cut.content, cut.stop_reason]).toMatchObject([[{ text: "Où est la" }], "max_tokens"]);
  });

  test("a call that must be", async () => {
    const stream = anthropic.messages.stream({
      ...asked,
      max_tokens: 80,
      messages: [{ role: "user", content: "Light?" }],
      tools: [{ name: "light", input_schema: { ...z.toJSONSchema(light), type: "object" } }],
      tool_choice: { type: "any", disable_parallel_tool_use: true },
    });
    const { content, stop_reason } = await stream.finalMessage();
    expect([content, stop_reason]).toMatchObject([[{ type: "tool_use", name: "light" }], "tool_use"]);
    light.parse(content[0].type === "tool_use" && content[0].input);
  });

  test("tokens are counted as they are used", async () => {
    const { model, messages } = asked;
    expect((await anthropic.messages.countTokens({ model, messages })).input_tokens).toBe(12);
  });

  test("an answer begun by the client is gone on with", async () => {
    const begun = [...asked.messages, { role: "assistant" as const, content: "Où est" }];
    const { content } = await anthropic.messages.create({ ...asked, messages: begun });
    expect(content).toMatchObject([{ text: " la gare ?" }]);
  });
});

test("none of it was a failure of the server", () => {
  expect(served.log.filter((entry) => entry.type === "error")).toEqual([]);
});
