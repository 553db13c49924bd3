/** Texts as vectors: every form of input and of answer, and what is refused before anything is queued. */
import { describe, expect, test } from "bun:test";
import { QueueFullError } from "../../src/engine/errors.ts";
import { EMBEDDING_INPUTS_MAX, EMBEDDINGS_AT_ONCE_MAX } from "../../src/limits.ts";
import { aborted, type Script, ScriptedClient } from "../support/scripted-client.ts";
import { type ErrorJson, refused, setUp, until } from "./support.ts";

const path = "/v1/embeddings";

/** The mean of a state of 3, 0, 0 for each "a", and of 0, 4, 12 for each other token, in four channels. */
const reader: Script = async function* ({ promptIds }) {
  const share = promptIds.filter((id) => id === 97).length / promptIds.length;
  const meanState = Float32Array.of(3 * share, 4 * (1 - share), 12 * (1 - share), 0);
  yield { type: "prompt", cachedTokens: 0, meanState };
  yield { type: "text", choice: 0, text: "x", tokenIds: [120] };
  yield {
    type: "finish",
    choice: 0,
    reason: "length",
    promptTokens: promptIds.length,
    completionTokens: 1,
  };
};

interface Answer {
  id: string;
  model: string;
  data: { object: string; index: number; embedding: number[] | string }[];
  usage: object;
}

async function embed(body: object, script = reader): Promise<Answer> {
  const response = await setUp(new ScriptedClient(script)).post(path, body);
  if (response.status !== 200) throw new Error(await response.text());
  return (await response.json()) as Answer;
}

const vectorsOf = ({ data }: Answer) => data.map(({ embedding }) => embedding as number[]);

describe("embeddings", () => {
  test("are unit vectors, in order, with the usage of all", async () => {
    const answer = await embed({ input: ["aa", "b", [97, 98]], model: "scripted" });
    expect(answer).toMatchObject({ id: "embd-2", object: "list", model: "scripted", created: 1_700_000_123 });
    expect(answer.data.map(({ object, index }) => [object, index])).toEqual([
      ["embedding", 0],
      ["embedding", 1],
      ["embedding", 2],
    ]);
    const [a, b, both] = vectorsOf(answer);
    expect(a).toEqual([1, 0, 0, 0]);
    expect(b).toEqual([0, Math.fround(4 / Math.sqrt(160)), Math.fround(12 / Math.sqrt(160)), 0]);
    expect(Math.hypot(...both)).toBeCloseTo(1, 6);
    expect(both[0] / both[1]).toBeCloseTo(3 / 4, 6);
    expect(answer.usage).toEqual({ prompt_tokens: 5, total_tokens: 5 });
  });

  test("of a string, of ids, and of an array of one of these are the same", async () => {
    const [expected] = vectorsOf(await embed({ input: "ab" }));
    for (const input of [[97, 98], ["ab"], [[97, 98]]]) {
      expect(vectorsOf(await embed({ input }))).toEqual([expected]);
    }
  });

  test("as base64 are float32 with the lowest byte first", async () => {
    const { data } = await embed({ input: ["a", "ab"], encoding_format: "base64" });
    const expected = vectorsOf(await embed({ input: ["a", "ab"], encoding_format: "float" }));
    const decoded = data.map(({ embedding }) => {
      const bytes = Uint8Array.from(atob(embedding as string), (char) => char.charCodeAt(0));
      const view = new DataView(bytes.buffer);
      return Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
    });
    expect(decoded).toEqual(expected);
    expect(decoded[0]).toEqual([1, 0, 0, 0]);
  });

  test("of fewer dimensions are cut, and one long again", async () => {
    const [vector] = vectorsOf(await embed({ input: "ab", dimensions: 2 }));
    expect(vector.length).toBe(2);
    expect(vector[0]).toBeCloseTo(3 / 5, 6);
    expect(vector[1]).toBeCloseTo(4 / 5, 6);
    expect(vectorsOf(await embed({ input: "ab", dimensions: 4 }))[0].length).toBe(4);
  });

  test("of nothing but zeros are zeros", async () => {
    const nothing: Script = async function* (request, signal) {
      for await (const event of reader(request, signal)) {
        yield event.type === "prompt" ? { ...event, meanState: new Float32Array(4) } : event;
      }
    };
    expect(vectorsOf(await embed({ input: "a" }, nothing))).toEqual([[0, 0, 0, 0]]);
  });

  test("ask the engine for a mean state and no more than it must give", async () => {
    const { post, engine } = setUp(new ScriptedClient(reader));
    await post(path, { input: "abc", cache_salt: "s", priority: 3, truncate_prompt_tokens: 2 });
    expect(engine.submissions[0].request).toMatchObject({
      promptIds: [98, 99],
      wantsMeanState: true,
      cacheSalt: "s",
      priority: 3,
      sampling: { maxTokens: 1, temperature: 0 },
    });
  });
});

describe("many inputs", () => {
  test("are queued some at a time, and come in order whatever ends first", async () => {
    let [running, most] = [0, 0];
    const slowFirst: Script = async function* (request, signal) {
      most = Math.max(most, ++running);
      if (request.promptIds[0] === 97) await new Promise((resolve) => setImmediate(resolve));
      yield* reader(request, signal);
      running--;
    };
    const input = Array.from({ length: 300 }, (_, index) => (index % 3 === 0 ? "a" : "b"));
    const vectors = vectorsOf(await embed({ input }, slowFirst));
    expect(vectors.map(([first]) => first)).toEqual(input.map((text) => (text === "a" ? 1 : 0)));
    expect(most).toBe(EMBEDDINGS_AT_ONCE_MAX);
  });

  test("one that fails ends the others", async () => {
    const failLast: Script = async function* (request, signal) {
      if (request.promptIds[0] === 98) throw new QueueFullError("full", 1);
      await aborted(signal);
      yield* reader(request, signal);
    };
    const set = setUp(new ScriptedClient(failLast));
    expect((await set.post(path, { input: ["a", "a", "b"] })).status).toBe(429);
    expect(set.engine.submissions.slice(0, 2).map(({ signal }) => signal.aborted)).toEqual([true, true]);
  });

  test("a client that leaves ends all", async () => {
    const wait: Script = async function* (_request, signal) {
      await aborted(signal);
      throw signal.reason;
    };
    const { app, engine } = setUp(new ScriptedClient(wait));
    const leaving = new AbortController();
    const headers = { "content-type": "application/json" };
    const request = { method: "POST", headers, body: JSON.stringify({ input: ["a", "b"] }) };
    const response = app.request(path, { ...request, signal: leaving.signal });
    await until(() => engine.submissions.length === 2);
    leaving.abort();
    expect((await response).status).toBe(499);
    expect(engine.submissions.map(({ signal }) => signal.aborted)).toEqual([true, true]);
  });
});

describe("refused", () => {
  test.each([
    ["input", {}],
    ["input", { input: "" }],
    ["input", { input: [] }],
    ["input", { input: ["a", ""] }],
    ["input", { input: ["a", 7] }],
    ["input", { input: [65_536] }],
    ["input", { input: "x".repeat(64) }],
    ["input", { input: Array.from({ length: EMBEDDING_INPUTS_MAX + 1 }, () => "a") }],
    ["dimensions", { input: "a", dimensions: 5 }],
    ["dimensions", { input: "a", dimensions: 0 }],
    ["encoding_format", { input: "a", encoding_format: "int8" }],
    ["messages", { input: "a", messages: [] }],
    ["truncate_prompt_tokens", { input: "a", truncate_prompt_tokens: 65 }],
  ])("%s by name: %#", async (param, body) => {
    expect((await refused(path, body)).param).toBe(param);
  });

  test("another model, and an input over the context, by their codes", async () => {
    const { post } = setUp(new ScriptedClient(reader));
    expect((await post(path, { input: "a", model: "other" })).status).toBe(404);
    const { error } = (await (await post(path, { input: "x".repeat(64) })).json()) as ErrorJson;
    expect(error.code).toBe("context_length_exceeded");
    expect((await post(path, { input: "x".repeat(63) })).status).toBe(200);
  });
});
