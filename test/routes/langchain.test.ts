/** LangChain's models for OpenAI. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAI } from "@langchain/openai";
import { z } from "zod";
import { EngineDeadError, InvalidRequestError } from "../../src/engine/errors.ts";
import { rejection } from "../support/rejection.ts";
import { aborted, say, sayThenThrow, sayThenWait } from "../support/scripted-client.ts";
import { type ScriptedServer, serveScripted, weatherScript } from "./client-support.ts";

let server: ScriptedServer;
let chat: ChatOpenAI;
let completions: OpenAI;
beforeAll(async () => {
  server = await serveScripted();
  const settings = { model: "scripted", apiKey: "unused", maxRetries: 0 };
  const configuration = { baseURL: server.baseURL };
  chat = new ChatOpenAI({ ...settings, configuration, useResponsesApi: false });
  completions = new OpenAI({ ...settings, configuration, maxTokens: 20 });
});
afterAll(() => server.close());

const weather = tool(({ city }: { city: string }) => `sunny in ${city}`, {
  name: "weather",
  description: "of a city",
  schema: z.object({ city: z.string() }),
});

describe("chat", () => {
  test("whole", async () => {
    server.engine.script = say("Hello", " world");
    const answer = await chat.invoke([new SystemMessage("Be brief."), new HumanMessage("Paris?")]);
    expect(answer.content).toBe("Hello world");
    expect(answer.usage_metadata).toMatchObject({ output_tokens: 11 });
    expect(answer.response_metadata).toMatchObject({ finish_reason: "stop" });
  });

  test("streamed, with the usage", async () => {
    server.engine.script = say("Hello", " world");
    const chunks = await Array.fromAsync(await chat.stream("Paris?"));
    const texts = chunks.map(({ content }) => content).filter((content) => content !== "");
    expect(texts).toEqual(["Hello", " world"]);
    expect(chunks.some(({ usage_metadata: usage }) => usage?.output_tokens === 11)).toBe(true);
  });

  test("a tool is called, and its answer goes back", async () => {
    server.engine.script = weatherScript;
    const bound = chat.bindTools([weather]);
    const question = new HumanMessage("Paris?");
    const asked = await bound.invoke([question]);
    expect(asked.tool_calls).toMatchObject([{ name: "weather", args: { city: "Paris" } }]);
    const [{ id: tool_call_id = "", args }] = asked.tool_calls ?? [];
    const result = new ToolMessage({
      tool_call_id,
      content: await weather.invoke({ city: String(args.city) }),
    });
    expect((await bound.invoke([question, asked, result])).content).toBe("It is sunny.");
  });

  test("a streamed call comes in pieces", async () => {
    server.engine.script = weatherScript;
    const chunks = await Array.fromAsync(await chat.bindTools([weather]).stream("Paris?"));
    const whole = chunks.reduce((all, chunk) => all.concat(chunk));
    expect(whole.tool_calls).toMatchObject([{ name: "weather", args: { city: "Paris" } }]);
    expect(chunks.filter(({ tool_call_chunks }) => tool_call_chunks?.length).length).toBeGreaterThan(2);
  });
});

describe("completions", () => {
  test("whole and streamed, its prompts being arrays", async () => {
    server.engine.script = say("Hello", " world");
    expect(await completions.invoke("Paris?")).toBe("Hello world");
    const texts = await Array.fromAsync(await completions.stream("Paris?"));
    expect(texts.join("")).toBe("Hello world");
  });
});

describe("errors", () => {
  test("have the server's words", async () => {
    server.engine.script = sayThenThrow([], new InvalidRequestError("no good", "messages"));
    expect((await rejection(chat.invoke("Paris?"))).message).toContain("no good");
    expect((await rejection(completions.invoke("Paris?"))).message).toContain("no good");
  });

  test("in mid-stream are thrown", async () => {
    server.engine.script = sayThenThrow(["Hello"], new EngineDeadError("dead"));
    const stream = await chat.stream("Paris?");
    expect((await rejection(Array.fromAsync(stream))).message).toContain("dead");
  });

  test("an abort ends the generation", async () => {
    server.engine.script = sayThenWait("Hello");
    const leaving = new AbortController();
    const stream = await chat.stream("Paris?", { signal: leaving.signal });
    const reading = Array.fromAsync(stream).catch((reason: unknown) => reason);
    leaving.abort();
    await aborted(server.engine.submissions.at(-1)!.signal);
    expect(await reading).toBeInstanceOf(Error);
  });
});
