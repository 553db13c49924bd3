import { describe, expect, test } from "bun:test";
import {
  ContextLengthError,
  DeadlineError,
  EngineDeadError,
  InvalidRequestError,
  QueueFullError,
  SlowReaderError,
} from "../../src/engine/errors.ts";
import { sayThenThrow, ScriptedClient } from "../support/scripted-client.ts";
import { chat, completions, type ErrorJson, hello, setUp } from "./support.ts";

describe("health and models", () => {
  test("health follows the engine", async () => {
    const { app, engine } = setUp();
    const well = await app.request("/health");
    expect([well.status, await well.json()]).toEqual([200, { status: "ok" }]);
    await engine.close();
    const dead = await app.request("/health");
    expect(dead.status).toBe(503);
    expect(dead.headers.get("retry-after")).toBe("10");
  });

  test("the model is listed and found by name, also one with a slash", async () => {
    const { app } = setUp(new ScriptedClient(undefined, { id: "org/name" }));
    const entry = {
      id: "org/name",
      object: "model",
      created: 1_700_000_000,
      owned_by: "prelude",
      max_model_len: 64,
    };
    expect(await (await app.request("/v1/models")).json()).toEqual({ object: "list", data: [entry] });
    expect(await (await app.request("/v1/models/org/name")).json()).toEqual(entry);
    expect(await (await app.request("/v1/models/org%2Fname")).json()).toEqual(entry);
    const missing = await app.request("/v1/models/other");
    expect(missing.status).toBe(404);
    expect(((await missing.json()) as ErrorJson).error).toMatchObject({
      param: "model",
      code: "model_not_found",
    });
  });
});

describe("routes that are not there", () => {
  test("unknown path", async () => {
    const response = await setUp().app.request("/v1/nothing");
    expect(response.status).toBe(404);
    expect(((await response.json()) as ErrorJson).error).toEqual({
      message: 'Cannot GET "/v1/nothing": expected a route of this API, got another',
      type: "invalid_request_error",
      param: null,
      code: "unknown_url",
    });
  });

  test.each([
    ["GET", chat, "POST"],
    ["OPTIONS", completions, "POST"],
    ["POST", "/v1/models", "GET"],
    ["DELETE", "/v1/models/x", "GET"],
    ["PUT", "/health", "GET"],
  ])("%s %s is a 405", async (method, path, allowed) => {
    const response = await setUp().app.request(path, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, allowed]);
  });

  test("HEAD is answered where GET is", async () => {
    expect((await setUp().app.request("/health", { method: "HEAD" })).status).toBe(200);
  });
});

describe("errors on Anthropic's paths have Anthropic's shape before any route is reached", () => {
  test.each([
    ["an unknown path", "/v1/messages/batches", "POST", 404, "not_found_error"],
    ["a path that only begins like them", "/v1/messagesandmore", "POST", 404, "invalid_request_error"],
  ])("%s", async (_name, path, method, status, type) => {
    const response = await setUp().app.request(path, { method, headers: { "x-request-id": "mine" } });
    expect(response.status).toBe(status);
    expect(response.headers.get("request-id")).toBe("mine");
    const body = (await response.json()) as { error: { type: string } };
    expect(body.error.type).toBe(type);
    const ours = { type: "error", request_id: "mine" };
    if (type === "not_found_error") expect(body).toMatchObject(ours);
    else expect(body).not.toMatchObject(ours);
  });
});

describe("request ids and the log", () => {
  test("a sane id comes back, another is replaced, on errors too", async () => {
    const { app } = setUp();
    const idFor = async (id: string, path: string): Promise<string | null> =>
      (await app.request(path, { headers: { "x-request-id": id } })).headers.get("x-request-id");
    expect(await idFor("abc-1.2:3_4", "/health")).toBe("abc-1.2:3_4");
    expect(await idFor("abc", "/nowhere")).toBe("abc");
    expect(await idFor("a b", "/health")).toBe("req-1");
    expect(await idFor("x".repeat(129), "/health")).toBe("req-2");
  });

  test("streams carry it", async () => {
    const { post } = setUp();
    const response = await post(chat, { ...hello, stream: true }, { "x-request-id": "mine" });
    expect(response.headers.get("x-request-id")).toBe("mine");
  });

  test("a request is one line", async () => {
    const { app, log } = setUp();
    await app.request("/health", { headers: { "x-request-id": "mine" } });
    expect(log).toEqual([
      { type: "request", requestId: "mine", method: "GET", path: "/health", status: 200, durationMs: 0 },
    ]);
  });
});

describe("errors of the engine before the first event", () => {
  const cases: [string, Error, number, object, Record<string, string>][] = [
    [
      "invalid request",
      new InvalidRequestError("no", "prompt"),
      400,
      { message: "no", type: "invalid_request_error", param: "prompt", code: null },
      {},
    ],
    [
      "context length",
      new ContextLengthError("long", "messages"),
      400,
      { message: "long", type: "invalid_request_error", param: "messages", code: "context_length_exceeded" },
      {},
    ],
    [
      "queue full",
      new QueueFullError("full", 1.5),
      429,
      { message: "full", type: "rate_limit_error", param: null, code: "queue_full" },
      { "retry-after": "2", "retry-after-ms": "1500" },
    ],
    [
      "deadline",
      new DeadlineError("late"),
      408,
      { message: "late", type: "timeout_error", param: null, code: "deadline_exceeded" },
      {},
    ],
    [
      "slow reader",
      new SlowReaderError("slow"),
      408,
      { message: "slow", type: "timeout_error", param: null, code: "slow_reader" },
      {},
    ],
    [
      "engine dead",
      new EngineDeadError("dead"),
      503,
      { message: "dead", type: "server_error", param: null, code: "engine_unavailable" },
      { "retry-after": "10", "retry-after-ms": "10000" },
    ],
  ];
  for (const [name, error, status, body, headers] of cases) {
    test.each([false, true])(`${name}, stream %s`, async (stream) => {
      const { post } = setUp(new ScriptedClient(sayThenThrow([], error)));
      const response = await post(chat, { ...hello, stream });
      expect(response.status).toBe(status);
      expect(await response.json()).toEqual({ error: body });
      for (const [key, value] of Object.entries(headers)) expect(response.headers.get(key)).toBe(value);
    });
  }

  test.each([new Error("secret path"), new TypeError("secret"), "a secret string", undefined])(
    "what is not known is a 500 without its text, and is logged",
    async (thrown) => {
      const { post, log } = setUp(new ScriptedClient(sayThenThrow([], thrown)));
      const response = await post(chat, hello);
      expect(response.status).toBe(500);
      const body = await response.text();
      expect(body).not.toContain("secret");
      expect((JSON.parse(body) as ErrorJson).error).toMatchObject({
        type: "server_error",
        code: "internal_error",
      });
      expect(log.map((entry) => entry.type)).toEqual(["error", "request"]);
    },
  );

  test("events that end without a finish are a failure of the server", async () => {
    const engine = new ScriptedClient(async function* () {});
    expect((await setUp(engine).post(chat, hello)).status).toBe(500);
  });
});
