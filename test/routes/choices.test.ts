/** Requests with several answers: whole, interleaved in a stream, and through OpenAI's own client. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import type { GenerationEvent } from "../../src/engine/client.ts";
import { listen, type Server } from "../../src/routes/server.ts";
import { type Script, ScriptedClient } from "../support/scripted-client.ts";
import { chat, chunksOf, completions, hello, refused, setUp } from "./support.ts";

/** Two answers take turns; the second ends first. */
const interleaved: Script = async function* ({ promptIds }) {
  const text = (choice: number, piece: string): GenerationEvent => {
    return { type: "text", choice, text: piece, tokenIds: [1] };
  };
  const finish = (choice: number, reason: "stop" | "length", completionTokens: number): GenerationEvent => {
    return { type: "finish", choice, reason, promptTokens: promptIds.length, completionTokens };
  };
  yield text(1, "B");
  yield text(0, "A");
  yield text(1, "b");
  yield finish(1, "stop", 3);
  yield text(0, "a");
  yield finish(0, "length", 2);
};

const manyChoices = { maxChoices: 2 };
const newEngine = (script: Script = interleaved) => new ScriptedClient(script, manyChoices);
const usage = { prompt_tokens: 8, completion_tokens: 5, total_tokens: 13 };

describe("two answers", () => {
  test("whole: in order, each with its own reason; the usage counts both", async () => {
    const response = await setUp(newEngine()).post(chat, { ...hello, n: 2 });
    const choice = (index: number, content: string, finish_reason: string) => ({
      index,
      message: { role: "assistant", content, refusal: null },
      logprobs: null,
      finish_reason,
    });
    expect(await response.json()).toMatchObject({
      choices: [choice(0, "Aa", "length"), choice(1, "Bb", "stop")],
      usage,
    });
  });

  test("streamed chat: a role each, text as it comes, an end each, the usage once", async () => {
    const body = { ...hello, n: 2, stream: true, stream_options: { include_usage: true } };
    const chunks = (await chunksOf(await setUp(newEngine()).post(chat, body))) as object[];
    const choice = (index: number, delta: object, finish_reason: string | null = null) => ({
      choices: [{ index, delta, logprobs: null, finish_reason }],
      usage: null,
    });
    const opening = { role: "assistant", content: "" };
    const expected = [
      choice(0, opening),
      choice(1, opening),
      choice(1, { content: "B" }),
      choice(0, { content: "A" }),
      choice(1, { content: "b" }),
      choice(1, {}, "stop"),
      choice(0, { content: "a" }),
      choice(0, {}, "length"),
      { choices: [], usage },
    ];
    expect(chunks).toHaveLength(expected.length);
    chunks.forEach((chunk, index) => expect(chunk).toMatchObject(expected[index]));
  });

  test("streamed completion", async () => {
    const body = { prompt: "abc", n: 2, stream: true };
    const chunks = await chunksOf(await setUp(newEngine()).post(completions, body));
    type Chunk = { choices: { index: number; text: string; finish_reason: string | null }[] };
    const seen = (chunks as Chunk[]).map(({ choices: [{ index, text, finish_reason }] }) => [
      index,
      text,
      finish_reason,
    ]);
    expect(seen).toEqual([
      [1, "B", null],
      [0, "A", null],
      [1, "b", null],
      [1, "", "stop"],
      [0, "a", null],
      [0, "", "length"],
    ]);
  });

  test("the end of one is not the end of the events", async () => {
    const events: Script = async function* (request, signal) {
      for await (const event of interleaved(request, signal)) {
        yield event;
        if (event.type === "finish") return;
      }
    };
    expect((await setUp(newEngine(events)).post(chat, { ...hello, n: 2 })).status).toBe(500);
  });

  test("no more than the model can run at once", async () => {
    for (const n of [0, 3, 1.5, "2"]) {
      expect((await refused(chat, { ...hello, n }, newEngine())).param).toBe("n");
    }
  });
});

describe("OpenAI's client", () => {
  let server: Server;
  let client: OpenAI;
  const conversation = { model: "scripted", messages: [{ role: "user" as const, content: "hi" }], n: 2 };

  beforeAll(async () => {
    server = await listen(setUp(newEngine()).app, { host: "127.0.0.1", port: 0 });
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused", maxRetries: 0 });
  });

  afterAll(() => server.close());

  test("gets two answers", async () => {
    const { choices } = await client.chat.completions.create(conversation);
    expect(choices.map(({ message }) => message.content)).toEqual(["Aa", "Bb"]);
  });

  test("puts two streamed answers together", async () => {
    const runner = client.chat.completions.stream(conversation);
    const { choices } = await runner.finalChatCompletion();
    const seen = choices.map(({ index, message, finish_reason }) => [index, message.content, finish_reason]);
    expect(seen).toEqual([
      [0, "Aa", "length"],
      [1, "Bb", "stop"],
    ]);
  });
});
