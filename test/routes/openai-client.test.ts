/** OpenAI's own client against the server over a socket: what it accepts is what counts. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import {
  ContextLengthError,
  DeadlineError,
  EngineDeadError,
  InvalidRequestError,
  QueueFullError,
} from "../../src/engine/errors.ts";
import { listen, type Server } from "../../src/routes/server.ts";
import { aborted, say, sayThenThrow, sayThenWait, ScriptedClient } from "../support/scripted-client.ts";
import { setUp } from "./support.ts";

const hello = say("Hello", " world");
const engine = new ScriptedClient();
const { app, log } = setUp(engine);
let server: Server;
let client: OpenAI;

beforeAll(async () => {
  server = await listen(app, { host: "127.0.0.1", port: 0 });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused", maxRetries: 0 });
});

afterAll(() => server.close());

const conversation = {
  model: "scripted",
  messages: [{ role: "user" as const, content: "hi" }],
};

describe("answers", () => {
  test("models", async () => {
    const models = await client.models.list();
    expect(models.data.map((model) => model.id)).toEqual(["scripted"]);
    expect((await client.models.retrieve("scripted")).object).toBe("model");
  });

  test("chat", async () => {
    engine.script = hello;
    const answer = await client.chat.completions.create(conversation);
    expect(answer.choices[0].message.content).toBe("Hello world");
    expect(answer.choices[0].finish_reason).toBe("stop");
    expect(answer.usage?.total_tokens).toBe(19);
    expect(answer._request_id).toMatch(/^req-/);
  });

  test("an answer can be part of the next request", async () => {
    engine.script = hello;
    const answer = await client.chat.completions.create(conversation);
    const messages = [...conversation.messages, answer.choices[0].message, ...conversation.messages];
    await client.chat.completions.create({ ...conversation, messages });
    const { promptIds } = engine.submissions.at(-1)!.request;
    expect(engine.text.decode(promptIds)).toBe("user:hi;assistant:Hello world;user:hi;");
  });

  test("chat, streamed", async () => {
    engine.script = hello;
    const stream_options = { include_usage: true };
    const stream = await client.chat.completions.create({ ...conversation, stream: true, stream_options });
    const chunks = await Array.fromAsync(stream);
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? null)).toEqual([
      "",
      "Hello",
      " world",
      null,
      null,
    ]);
    expect(chunks.at(-1)?.usage?.completion_tokens).toBe(11);
  });

  test("the stream helper", async () => {
    engine.script = hello;
    const runner = client.chat.completions.stream(conversation);
    const pieces: string[] = [];
    runner.on("content", (piece) => pieces.push(piece));
    const final = await runner.finalChatCompletion();
    expect(pieces.join("")).toBe("Hello world");
    expect(final.choices[0].message).toMatchObject({ role: "assistant", content: "Hello world" });
    expect(final.choices[0].finish_reason).toBe("stop");
  });

  test("completions, whole and streamed", async () => {
    engine.script = hello;
    const body = { model: "scripted", prompt: "abc", max_tokens: 4, seed: -1, stop: ["\n"] };
    const answer = await client.completions.create(body);
    expect(answer.choices[0].text).toBe("Hello world");
    const stream = await client.completions.create({ ...body, prompt: [97, 98], stream: true });
    const chunks = await Array.fromAsync(stream);
    expect(chunks.map((chunk) => chunk.choices[0].text)).toEqual(["Hello", " world", ""]);
    expect(engine.submissions.at(-1)?.request.promptIds).toEqual([97, 98]);
  });

  test("leaving a stream aborts it", async () => {
    engine.script = sayThenWait("Hello");
    const stream = await client.chat.completions.create({ ...conversation, stream: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content === "Hello") break;
    await aborted(engine.submissions.at(-1)!.signal);
  });
});

describe("errors", () => {
  test.each([
    ["invalid request", new InvalidRequestError("no", "prompt"), OpenAI.BadRequestError, "prompt", null],
    [
      "context length",
      new ContextLengthError("long", "messages"),
      OpenAI.BadRequestError,
      "messages",
      "context_length_exceeded",
    ],
    ["queue full", new QueueFullError("full", 1), OpenAI.RateLimitError, null, "queue_full"],
    ["deadline", new DeadlineError("late"), OpenAI.APIError, null, "deadline_exceeded"],
    ["engine dead", new EngineDeadError("dead"), OpenAI.InternalServerError, null, "engine_unavailable"],
    ["unknown", new Error("secret"), OpenAI.InternalServerError, null, "internal_error"],
  ] as const)("%s", async (_name, thrown, errorClass, param, code) => {
    engine.script = sayThenThrow([], thrown);
    for (const stream of [false, true]) {
      const error = await failure(client.chat.completions.create({ ...conversation, stream }));
      expect(error).toBeInstanceOf(errorClass);
      expect([error.param, error.code]).toEqual([param, code]);
      expect(error.requestID).toMatch(/^req-/);
    }
  });

  test("another model is not found", async () => {
    const error = await failure(client.chat.completions.create({ ...conversation, model: "other" }));
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    expect(error.code).toBe("model_not_found");
  });

  test("a parameter that is not supported is named", async () => {
    const prediction = { type: "content" as const, content: "a" };
    const error = await failure(client.chat.completions.create({ ...conversation, prediction }));
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect([error.param, error.message]).toEqual([
      "prediction",
      '400 Cannot accept "prediction": expected supported parameters only, got an unknown one',
    ]);
  });

  test("in mid-stream it is thrown after the text", async () => {
    engine.script = sayThenThrow(["Hello"], new EngineDeadError("dead"));
    const stream = await client.chat.completions.create({ ...conversation, stream: true });
    const seen: string[] = [];
    const error = await failure(
      (async () => {
        for await (const chunk of stream) seen.push(chunk.choices[0].delta.content ?? "");
      })(),
    );
    expect(seen).toEqual(["", "Hello"]);
    expect([error.message, error.type, error.code]).toEqual(["dead", "server_error", "engine_unavailable"]);
  });

  test.each([
    ["a full queue is tried again after the time it says", new QueueFullError("full", 0.001)],
    ["a deadline that has passed is tried again", new DeadlineError("late")],
  ])("%s", async (_name, thrown) => {
    let attempts = 0;
    engine.script = (request, signal) =>
      (++attempts === 1 ? sayThenThrow([], thrown) : hello)(request, signal);
    const patient = client.withOptions({ maxRetries: 1 });
    const answer = await patient.chat.completions.create(conversation);
    expect([attempts, answer.choices[0].message.content]).toEqual([2, "Hello world"]);
  });

  test("clients that leave are no errors of the server", () => {
    const failures = log.filter((entry) => entry.type === "error").map((entry) => String(entry.error));
    expect(new Set(failures)).toEqual(new Set(["EngineDeadError: dead", "Error: secret"]));
  });
});

async function failure(promise: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof OpenAI.APIError) return error;
  throw new Error(`expected an APIError, got ${String(error)}`);
}
