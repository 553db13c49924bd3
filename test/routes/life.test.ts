/** What the server says while it loads, drains and after it has died; and what becomes of requests under way. */
import { describe, expect, test } from "bun:test";
import { createApp } from "../../src/routes/app.ts";
import { ServerLife } from "../../src/routes/life.ts";
import type { LogEntry } from "../../src/routes/services.ts";
import { sayThenWait, ScriptedClient } from "../support/scripted-client.ts";
import { chat, completions, type ErrorJson, hello, until } from "./support.ts";

function setUp() {
  const life = new ServerLife();
  let idCount = 0;
  const app = createApp({
    engine: life,
    clock: () => 0,
    newId: () => String(++idCount),
    randomSeed: () => 1n,
    about: { version: "1.2.3", runtime: "a runtime" },
  });
  const post = (path: string, body: object) =>
    app.request(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  const statusOf = async (path: string) => (await app.request(path)).status;
  return { life, app, post, statusOf };
}

async function codeOf(response: Response): Promise<[number, string | null]> {
  return [response.status, ((await response.json()) as ErrorJson).error.code];
}

describe("loading", () => {
  test("every route is a 503 that says when to come back", async () => {
    const { app, post } = setUp();
    for (const path of ["/health", "/ready", "/version", "/metrics", "/v1/models", "/nowhere"]) {
      const response = await app.request(path);
      expect(response.headers.get("retry-after")).toBe("5");
      expect(await codeOf(response)).toEqual([503, "loading"]);
    }
    expect(await codeOf(await post(chat, hello))).toEqual([503, "loading"]);
  });

  test("then it serves", async () => {
    const { life, app, post } = setUp();
    life.begin(new ScriptedClient());
    expect(await (await app.request("/ready")).json()).toEqual({ status: "ready" });
    expect(await (await app.request("/version")).json()).toEqual({
      version: "1.2.3",
      runtime: "a runtime",
      adapter: "a script",
    });
    expect((await post(chat, hello)).status).toBe(200);
  });
});

describe("draining", () => {
  test("refuses what is new, tells so, and lets what is under way finish", async () => {
    const { life, app, post, statusOf } = setUp();
    const gate = Promise.withResolvers<undefined>();
    const engine = new ScriptedClient(async function* () {
      yield { type: "text", choice: 0, text: "first", tokenIds: [1] };
      await gate.promise;
      yield { type: "finish", choice: 0, reason: "stop", promptTokens: 1, completionTokens: 1 };
    });
    life.begin(engine);
    const streamed = await post(chat, { ...hello, stream: true });
    const whole = post(completions, { prompt: "x" });
    await until(() => engine.submissions.length === 2);
    let isDrained = false;
    const drained = life.drain().then(() => (isDrained = true));
    expect(await codeOf(await app.request("/health"))).toEqual([503, "shutting_down"]);
    expect(await codeOf(await post(chat, hello))).toEqual([503, "shutting_down"]);
    expect(await statusOf("/metrics")).toBe(200);
    gate.resolve(undefined);
    expect((await whole).status).toBe(200);
    expect(isDrained).toBe(false);
    expect(await streamed.text()).toMatch(/data: \[DONE\]\n\n$/);
    await drained;
  });

  test("what is cut off ends with an error, streamed or not", async () => {
    const { life, post } = setUp();
    const engine = new ScriptedClient(sayThenWaitForReason());
    life.begin(engine);
    const streamed = await post(chat, { ...hello, stream: true });
    const whole = post(chat, hello);
    await until(() => engine.submissions.length === 2);
    const drained = life.drain();
    life.cut();
    expect(await streamed.text()).toMatch(/"code":"shutting_down"\}\}\n\ndata: \[DONE\]\n\n$/);
    expect(await codeOf(await whole)).toEqual([503, "shutting_down"]);
    await drained;
  });

  test("a client that leaves is waited for no more", async () => {
    const { life, post } = setUp();
    life.begin(new ScriptedClient(sayThenWait("Hello")));
    const reader = (await post(chat, { ...hello, stream: true })).body!.getReader();
    await reader.read();
    const drained = life.drain();
    await reader.cancel();
    await drained;
  });

  test("with nothing under way it is over at once", async () => {
    const { life } = setUp();
    life.begin(new ScriptedClient());
    await life.drain();
    expect(life.state).toBe("draining");
  });
});

test("a dead engine is neither well nor ready, and its numbers so far can be read", async () => {
  const { life, statusOf } = setUp();
  const engine = new ScriptedClient();
  life.begin(engine);
  await engine.close();
  expect([life.state, await statusOf("/health"), await statusOf("/ready")]).toEqual(["dead", 503, 503]);
  expect(await statusOf("/metrics")).toBe(200);
});

/** As the real engine does it: an abort ends the events with its reason. */
function sayThenWaitForReason() {
  const script = sayThenWait("Hello");
  return async function* (...args: Parameters<typeof script>) {
    yield* script(...args);
    args[1].throwIfAborted();
  };
}

describe("the log", () => {
  function logged(logsPrompts: boolean) {
    const log: LogEntry[] = [];
    const app = createApp({
      engine: new ScriptedClient(),
      clock: () => 0,
      newId: () => "id",
      randomSeed: () => 1n,
      log: (entry) => void log.push(entry),
      logsPrompts,
    });
    const body = JSON.stringify({ prompt: "a secret", max_tokens: 20 });
    const headers = { "content-type": "application/json", "x-request-id": "mine" };
    return { log, ask: () => app.request(completions, { method: "POST", headers, body }) };
  }

  test("has an answer's tokens and times, and no text of anybody", async () => {
    const { log, ask } = logged(false);
    await ask();
    const tokens = { promptTokens: 8, completionTokens: 11 };
    expect(log).toEqual([
      { type: "answer", id: "cmpl-id", reason: "stop", ...tokens, firstTokenMs: 0, durationMs: 0 },
      { type: "request", requestId: "mine", method: "POST", path: completions, status: 200, durationMs: 0 },
    ]);
  });

  test("has prompts where that is wished", async () => {
    const { log, ask } = logged(true);
    await ask();
    expect(log[0]).toEqual({ type: "prompt", id: "cmpl-id", text: "a secret" });
  });
});
