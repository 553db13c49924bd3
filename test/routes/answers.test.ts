import { describe, expect, test } from "bun:test";
import { DeadlineError, EngineDeadError, SlowReaderError } from "../../src/engine/errors.ts";
import {
  aborted,
  say,
  sayThenFinish,
  sayThenThrow,
  sayThenWait,
  ScriptedClient,
} from "../support/scripted-client.ts";
import { chat, chunksOf, completions, hello, setUp, until } from "./support.ts";

const usage = { prompt_tokens: 8, completion_tokens: 11, total_tokens: 19 };

describe("whole answers", () => {
  test("chat", async () => {
    const response = await setUp().post(chat, hello);
    expect(response.headers.get("content-type")).toMatch(/^application\/json/);
    expect(await response.json()).toEqual({
      id: "chatcmpl-2",
      object: "chat.completion",
      created: 1_700_000_123,
      model: "scripted",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "Hello world", refusal: null },
          logprobs: null,
          finish_reason: "stop",
        },
      ],
      usage,
    });
  });

  test("completion", async () => {
    const engine = new ScriptedClient(sayThenFinish(["a", "", "b"], "length"));
    expect(await (await setUp(engine).post(completions, { prompt: "abc" })).json()).toEqual({
      id: "cmpl-2",
      object: "text_completion",
      created: 1_700_000_123,
      model: "scripted",
      choices: [{ index: 0, text: "ab", logprobs: null, finish_reason: "length" }],
      usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    });
  });

  test.each(["END", 7])("what of the request's own ended an answer is told: %p", async (stop) => {
    const engine = new ScriptedClient(async function* () {
      yield { type: "finish", choice: 0, reason: "stop", stop, promptTokens: 8, completionTokens: 1 };
    });
    const { post } = setUp(engine);
    const end = { finish_reason: "stop", stop_reason: stop };
    expect(await (await post(chat, hello)).json()).toMatchObject({ choices: [end] });
    const chunks = await chunksOf(await post(completions, { prompt: "abc", stream: true }));
    expect(chunks).toMatchObject([{ choices: [end] }]);
  });

  test("an error after some text is an error all the same", async () => {
    const engine = new ScriptedClient(sayThenThrow(["a"], new EngineDeadError("dead")));
    expect((await setUp(engine).post(chat, hello)).status).toBe(503);
  });
});

describe("streams", () => {
  const head = {
    id: "chatcmpl-2",
    object: "chat.completion.chunk",
    created: 1_700_000_123,
    model: "scripted",
  };
  const choice = (delta: object, reason: string | null = null) => ({
    ...head,
    choices: [{ index: 0, delta, logprobs: null, finish_reason: reason }],
  });
  const chunks = [
    choice({ role: "assistant", content: "" }),
    choice({ content: "Hello" }),
    choice({ content: " world" }),
    choice({}, "stop"),
  ];

  test("chat: role, text, finish, [DONE]", async () => {
    const response = await setUp().post(chat, { ...hello, stream: true });
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    expect(response.headers.get("x-accel-buffering")).toBe("no");
    expect(response.headers.get("cache-control")).toBe("no-cache");
    expect(await chunksOf(response)).toEqual(chunks);
  });

  test("usage comes last, when asked for", async () => {
    const body = { ...hello, stream: true, stream_options: { include_usage: true } };
    expect(await chunksOf(await setUp().post(chat, body))).toEqual([
      ...chunks.map((chunk) => ({ ...chunk, usage: null })),
      { ...head, choices: [], usage },
    ]);
    const without = { ...body, stream_options: { include_usage: false } };
    expect(await chunksOf(await setUp().post(chat, without))).toEqual(chunks);
  });

  test("completion: text, finish, [DONE]", async () => {
    const response = await setUp().post(completions, { prompt: "abc", stream: true });
    const chunk = (text: string, reason: string | null = null) => ({
      id: "cmpl-2",
      object: "text_completion",
      created: 1_700_000_123,
      model: "scripted",
      choices: [{ index: 0, text, logprobs: null, finish_reason: reason }],
    });
    expect(await chunksOf(response)).toEqual([chunk("Hello"), chunk(" world"), chunk("", "stop")]);
  });

  test("no text at all", async () => {
    const response = await setUp(new ScriptedClient(say())).post(chat, { ...hello, stream: true });
    expect(await chunksOf(response)).toEqual([chunks[0], chunks[3]]);
  });

  test("text without meaning for a frame: newlines, carriage returns, a lone surrogate", async () => {
    const text = "a\n\ndata: [DONE]\r\n\n: \u2028\ud800";
    const response = await setUp(new ScriptedClient(say(text))).post(chat, { ...hello, stream: true });
    expect((await chunksOf(response))[1]).toEqual(choice({ content: text }));
  });

  test("an error in mid-stream is said, then [DONE]", async () => {
    const engine = new ScriptedClient(sayThenThrow(["Hello"], new EngineDeadError("dead")));
    const { post, log } = setUp(engine);
    const error = { message: "dead", type: "server_error", param: null, code: "engine_unavailable" };
    const response = await post(chat, { ...hello, stream: true });
    expect(await chunksOf(response)).toEqual([chunks[0], chunks[1], { error }]);
    expect(log.map((entry) => entry.type)).toEqual(["request", "error"]);
  });

  test.each([
    ["slow_reader", new SlowReaderError("slow")],
    ["deadline_exceeded", new DeadlineError("late")],
  ])("%s in mid-stream is said and is no failure of the server", async (code, thrown) => {
    const { post, log } = setUp(new ScriptedClient(sayThenThrow(["Hello"], thrown)));
    const response = await post(chat, { ...hello, stream: true });
    const error = { message: thrown.message, type: "timeout_error", param: null, code };
    expect(await chunksOf(response)).toEqual([chunks[0], chunks[1], { error }]);
    expect(log.map((entry) => entry.type)).toEqual(["request"]);
  });

  test("an unknown error in mid-stream keeps its text to itself", async () => {
    const { post } = setUp(new ScriptedClient(sayThenThrow(["Hello"], new Error("secret"))));
    const text = await (await post(chat, { ...hello, stream: true })).text();
    expect(text).not.toContain("secret");
    expect(text).toContain('{"error":{"message":');
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  });
});

describe("silence", () => {
  test("is filled with pings, which stop when the text goes on", async () => {
    const gate = Promise.withResolvers<undefined>();
    const engine = new ScriptedClient(async function* (request, signal) {
      yield { type: "text", choice: 0, text: "Hello", tokenIds: [] };
      await gate.promise;
      yield* say(" world")(request, signal);
    });
    const { post, timers } = setUp(engine);
    const reader = readerOf(await post(chat, { ...hello, stream: true }));
    await reader.next();
    await reader.next();
    for (let ping = 0; ping < 2; ping++) {
      const next = reader.next();
      await until(() => timers.count > 0);
      timers.fireAll();
      expect(await next).toBe(": ping\n\n");
    }
    gate.resolve(undefined);
    const rest = [];
    for (let frame = await reader.next(); frame; frame = await reader.next()) rest.push(frame);
    expect(rest).toHaveLength(3);
    expect(rest.at(-1)).toBe("data: [DONE]\n\n");
    expect(timers.count).toBe(0);
  });
});

describe("a client that leaves", () => {
  test("ends the generation of a stream", async () => {
    const { post, engine, log, timers } = setUp(new ScriptedClient(sayThenWait("Hello")));
    const response = await post(chat, { ...hello, stream: true });
    const reader = response.body?.getReader();
    await reader?.read();
    const { signal } = engine.submissions[0];
    expect(signal.aborted).toBe(false);
    await reader?.cancel();
    expect(signal.aborted).toBe(true);
    await until(() => timers.count === 0);
    expect(log.map((entry) => entry.type)).toEqual(["request"]);
  });

  test.each([true, false])("before the first event, stream %s", async (stream) => {
    const { app, engine, log } = setUp(new ScriptedClient(sayThenWait()));
    const connection = new AbortController();
    const response = app.request(chat, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...hello, stream }),
      signal: connection.signal,
    });
    await until(() => engine.submissions.length > 0);
    connection.abort();
    await aborted(engine.submissions[0].signal);
    await response;
    expect(log.filter((entry) => entry.type === "error")).toEqual([]);
  });

  test("leaves the engine's iteration too", async () => {
    let isLeft = false;
    const engine = new ScriptedClient(async function* (request, signal) {
      try {
        yield* say("a", "b", "c", "d", "e", "f")(request, signal);
      } finally {
        isLeft = true;
      }
    });
    const reader = (await setUp(engine).post(chat, { ...hello, stream: true })).body?.getReader();
    await reader?.read();
    await reader?.read();
    await reader?.cancel();
    expect(isLeft).toBe(true);
  });
});

/** Frames one by one; null at the end. */
function readerOf(response: Response): { next(): Promise<string | null> } {
  const reader = response.body?.getReader();
  if (!reader) throw new Error("no body");
  const decoder = new TextDecoder();
  return {
    async next() {
      const { value } = await reader.read();
      return value ? decoder.decode(value) : null;
    },
  };
}
