/** The AI SDK over a socket: its OpenAI provider speaks `/v1/responses` unless told otherwise. */
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, isStepCount, streamText, tool } from "ai";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { z } from "zod";
import { EngineDeadError, InvalidRequestError } from "../../../src/engine/errors.ts";
import { listen, type Server } from "../../../src/routes/server.ts";
import {
  aborted,
  say,
  sayThenThrow,
  sayThenWait,
  type Script,
  ScriptedClient,
} from "../../support/scripted-client.ts";
import { setUp } from "../support.ts";

const engine = new ScriptedClient(undefined, { maxModelLen: 1000 });
const { app } = setUp(engine);
let server: Server;
let model: ReturnType<ReturnType<typeof createOpenAI>>;

beforeAll(async () => {
  server = await listen(app, { host: "127.0.0.1", port: 0 });
  model = createOpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused" })("scripted");
});
afterAll(() => server.close());

const look = tool({
  inputSchema: z.object({ at: z.string() }),
  execute: async ({ at }) => `${at} is blue`,
});
const called = ['<tool_call>\n{"name":"look","arguments":', '{"at":"sky"}}\n</tool_call>'];

/** A call first, and words once its result is there. */
const callThenSay: Script = (request, signal) => {
  const isAnswered = engine.text.decode(request.promptIds).includes("tool:");
  return (isAnswered ? say("It is ", "blue.") : say(...called))(request, signal);
};

describe("text", () => {
  test("whole", async () => {
    engine.script = say("Hello", " world");
    const { text, usage, finishReason } = await generateText({
      model,
      system: "be brief",
      prompt: "hi",
      temperature: 0,
    });
    expect([text, finishReason, usage.outputTokens]).toEqual(["Hello world", "stop", 11]);
    const { promptIds, sampling } = engine.submissions.at(-1)!.request;
    expect([engine.text.decode(promptIds), sampling.temperature]).toEqual(["system:be brief;user:hi;", 0]);
  });

  test("streamed", async () => {
    engine.script = say("Hello", " world");
    const { textStream, usage } = streamText({ model, prompt: "hi" });
    expect(await Array.fromAsync(textStream)).toEqual(["Hello", " world"]);
    expect((await usage).outputTokens).toBe(11);
  });
});

describe("a call, its result, and the answer", () => {
  const asked = { prompt: "what color?", tools: { look }, stopWhen: isStepCount(3) };

  test("whole", async () => {
    engine.script = callThenSay;
    const { text, steps } = await generateText({ model, ...asked });
    expect([text, steps.map(({ finishReason }) => finishReason)]).toEqual([
      "It is blue.",
      ["tool-calls", "stop"],
    ]);
    expect(steps[0].toolResults).toMatchObject([{ input: { at: "sky" }, output: "sky is blue" }]);
  });

  test("streamed", async () => {
    engine.script = callThenSay;
    const result = streamText({ model, ...asked });
    const parts = await Array.fromAsync(result.fullStream);
    const types = new Set(parts.map(({ type }) => type));
    for (const type of ["tool-input-delta", "tool-call", "tool-result", "text-delta"] as const) {
      expect(types.has(type)).toBe(true);
    }
    expect(await result.text).toBe("It is blue.");
  });

  const sayAndCall: Script = (request, signal) => {
    const isAnswered = engine.text.decode(request.promptIds).includes("tool:");
    return (isAnswered ? say("Blue.") : say("I look.", ...called))(request, signal);
  };

  test("with words before the call, which the SDK sends by their id if they are stored", async () => {
    engine.script = sayAndCall;
    for (const store of [true, false]) {
      const { text } = await generateText({ model, ...asked, providerOptions: { openai: { store } } });
      expect(text).toBe("Blue.");
      expect(engine.text.decode(engine.submissions.at(-1)!.request.promptIds)).toBe(
        "user:what color?;assistant:I look.;tool:sky is blue;",
      );
    }
  });

  test("the SDK believes that they are unless told otherwise, and hears what to do", async () => {
    engine.script = sayAndCall;
    const error: unknown = await generateText({ model, ...asked }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ statusCode: 400, message: expect.stringContaining("store") as string });
  });
});

describe("errors", () => {
  test("a bad request keeps its message", async () => {
    engine.script = sayThenThrow([], new InvalidRequestError("Cannot do that", "input"));
    const error: unknown = await generateText({ model, prompt: "hi", maxRetries: 0 }).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(APICallError);
    expect(error).toMatchObject({ message: "Cannot do that", statusCode: 400 });
  });

  test("in mid-stream they are a part, behind the text", async () => {
    engine.script = sayThenThrow(["Hello"], new EngineDeadError("dead"));
    const { fullStream } = streamText({ model, prompt: "hi", maxRetries: 0, onError: () => {} });
    const parts = await Array.fromAsync(fullStream);
    const text = parts.findIndex(({ type }) => type === "text-delta");
    const error = parts.findIndex(({ type }) => type === "error");
    expect([text >= 0, error > text]).toEqual([true, true]);
    expect(JSON.stringify(parts[error])).toContain("dead");
  });

  test("aborting ends the generation", async () => {
    engine.script = sayThenWait("Hello");
    const leaving = new AbortController();
    const { textStream } = streamText({ model, prompt: "hi", abortSignal: leaving.signal });
    await Array.fromAsync(textStream, () => leaving.abort());
    await aborted(engine.submissions.at(-1)!.signal);
  });
});
