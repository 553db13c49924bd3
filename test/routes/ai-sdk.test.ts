/** The AI SDK, by its provider for OpenAI-compatible servers. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { EngineDeadError, InvalidRequestError, QueueFullError } from "../../src/engine/errors.ts";
import { aborted, say, sayThenThrow, sayThenWait } from "../support/scripted-client.ts";
import { type ScriptedServer, serveScripted, weatherScript } from "./client-support.ts";
import { until } from "./support.ts";

let server: ScriptedServer;
let provider: ReturnType<typeof createOpenAICompatible>;
beforeAll(async () => {
  server = await serveScripted();
  provider = createOpenAICompatible({ name: "prelude", baseURL: server.baseURL, includeUsage: true });
});
afterAll(() => server.close());

const asked: string[] = [];
const weather = tool({
  description: "of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: ({ city }) => {
    asked.push(city);
    return "sunny";
  },
});
const request = () => ({ model: provider("scripted"), prompt: "Paris?", maxRetries: 0 });

describe("text", () => {
  test("whole, with system prompt and settings", async () => {
    server.engine.script = say("<think>Hm.</think>", "Hello", " world");
    const settings = { temperature: 0.5, maxOutputTokens: 40, seed: 3, stopSequences: ["x"], topP: 0.5 };
    const answer = await generateText({ ...request(), instructions: "Be brief.", ...settings });
    expect([answer.text, answer.reasoningText, answer.finishReason]).toEqual(["Hello world", "Hm.", "stop"]);
    expect(answer.usage.outputTokens).toBe(29);
    const { promptIds, sampling } = server.engine.submissions.at(-1)!.request;
    expect(String.fromCharCode(...promptIds)).toBe("system:Be brief.;user:Paris?;");
    expect(sampling).toMatchObject({ temperature: 0.5, maxTokens: 40, seed: 3n, stop: ["x"], topP: 0.5 });
  });

  test("streamed", async () => {
    server.engine.script = say("<think>Hm.</think>", "Hello", " world");
    const answer = streamText(request());
    expect(await Array.fromAsync(answer.textStream)).toEqual(["Hello", " world"]);
    expect([await answer.reasoningText, await answer.finishReason]).toEqual(["Hm.", "stop"]);
    expect((await answer.usage).outputTokens).toBe(29);
  });
});

describe("tools", () => {
  const withTools = () => ({ ...request(), tools: { weather }, stopWhen: stepCountIs(3) });

  test("called, answered, and gone on with", async () => {
    server.engine.script = weatherScript;
    asked.length = 0;
    const { text, steps } = await generateText(withTools());
    expect([text, steps.length, asked]).toEqual(["It is sunny.", 2, ["Paris"]]);
    expect(steps[0].toolCalls[0]).toMatchObject({ toolName: "weather", input: { city: "Paris" } });
    expect([steps[0].finishReason, steps[0].reasoningText]).toEqual(["tool-calls", "Hm."]);
  });

  test("streamed: input comes in pieces", async () => {
    server.engine.script = weatherScript;
    const answer = streamText(withTools());
    const types: string[] = [];
    for await (const part of answer.fullStream) types.push(part.type);
    expect(types.filter((type) => type === "tool-input-delta").length).toBeGreaterThan(2);
    expect(types).toContain("tool-result");
    expect(await answer.text).toBe("It is sunny.");
  });
});

describe("errors", () => {
  test.each([
    ["invalid request", new InvalidRequestError("no good", "prompt"), 400, false],
    ["queue full", new QueueFullError("full", 1), 429, true],
    ["engine dead", new EngineDeadError("dead"), 503, true],
  ] as const)("%s", async (_name, thrown, status, isRetryable) => {
    server.engine.script = sayThenThrow([], thrown);
    const error = await generateText(request()).catch((reason: unknown) => reason);
    if (!APICallError.isInstance(error)) throw new Error(`expected an APICallError, got ${String(error)}`);
    expect([error.statusCode, error.message, error.isRetryable]).toEqual([
      status,
      thrown.message,
      isRetryable,
    ]);
  });

  test("in mid-stream is a part of the stream, with its message", async () => {
    server.engine.script = sayThenThrow(["Hello"], new EngineDeadError("dead"));
    const answer = streamText({ ...request(), onError: () => {} });
    const parts = await Array.fromAsync(answer.fullStream);
    expect(parts.some((part) => part.type === "text-delta" && part.text === "Hello")).toBe(true);
    const error = parts.find((part) => part.type === "error");
    expect(JSON.stringify(error?.error)).toContain("dead");
  });

  test.each([false, true])("an abort ends the generation; stream %p", async (isStream) => {
    server.engine.script = sayThenWait("Hello");
    const before = server.engine.submissions.length;
    const leaving = new AbortController();
    const options = { ...request(), abortSignal: leaving.signal };
    const reading = isStream
      ? Array.fromAsync(streamText(options).textStream)
      : generateText(options).catch((reason: unknown) => reason);
    await until(() => server.engine.submissions.length > before);
    leaving.abort();
    await aborted(server.engine.submissions.at(-1)!.signal);
    await reading;
  });
});
