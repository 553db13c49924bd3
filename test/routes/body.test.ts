import { describe, expect, test } from "bun:test";
import { JSON_DEPTH_MAX, REQUEST_BODY_BYTES_MAX } from "../../src/limits.ts";
import { chat, completions, type ErrorJson, hello, setUp, until } from "./support.ts";

/** Everything refused here must be refused before the engine hears of it. */
async function refusal(path: string, init: RequestInit): Promise<{ status: number; message: string }> {
  const { app, engine } = setUp();
  const response = await app.request(path, { method: "POST", ...init });
  expect(engine.submissions).toEqual([]);
  const { error } = (await response.json()) as ErrorJson;
  expect(Object.keys(error).sort()).toEqual(["code", "message", "param", "type"]);
  expect(error.message.length).toBeLessThan(300);
  return { status: response.status, message: error.message };
}

const json = { "content-type": "application/json" };

describe("content type", () => {
  test.each(["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "json"])(
    "%s is refused",
    async (type) => {
      const { status, message } = await refusal(chat, {
        headers: { "content-type": type },
        body: JSON.stringify(hello),
      });
      expect(status).toBe(400);
      expect(message).toContain("content-type application/json");
    },
  );

  test("none is refused", async () => {
    const body = new TextEncoder().encode(JSON.stringify(hello));
    expect((await refusal(chat, { body })).status).toBe(400);
  });

  test.each(["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'])(
    "%s is taken",
    async (type) => {
      expect((await setUp().post(chat, hello, { "content-type": type })).status).toBe(200);
    },
  );
});

describe("JSON", () => {
  test.each([
    ["", "syntax error"],
    ["{", "syntax error"],
    ['{"prompt":"a"', "syntax error"],
    ['{"prompt":"a', "syntax error"],
    ['{"prompt":"a\\', "syntax error"],
    ["}]", "syntax error"],
    ['{"prompt":"a","temperature":NaN}', "syntax error"],
    ['{"prompt":"a"}{"prompt":"b"}', "syntax error"],
    ["\u0000", "syntax error"],
    ["null", "an object"],
    ["[]", "an object"],
    ['"prompt"', "an object"],
    ["7", "an object"],
    ['{"prompt":"a","prompt":"b"}', '"prompt" again'],
    ['{"prompt":"a","pro\\u006dpt" : "b"}', '"prompt" again'],
    ['{"prompt":"a","__proto__":{"stream":true}}', "__proto__"],
    ['{"prompt":"a","stream_options":{"__proto__":1},"stream":true}', "stream_options.__proto__"],
    ['{"prompt":"a","constructor":1}', "constructor"],
    ['{"prompt":"a","toString":1}', "toString"],
    ['{"prompt":"a","temperature":1e999}', "temperature"],
    ['{"prompt":"a","temperature":-1e999}', "temperature"],
    ['{"prompt":"a","seed":1e999}', "seed"],
    ['{"prompt":[1e999]}', "prompt"],
  ])("%j is a 400", async (body, reason) => {
    const { status, message } = await refusal(completions, { headers: json, body });
    expect(status).toBe(400);
    expect(message).toContain(reason);
  });

  const deep = "[".repeat(500_000);
  test.each([
    ["open arrays", deep],
    ["closed arrays", `${deep}${"]".repeat(500_000)}`],
    ["objects", '{"a":'.repeat(100_000)],
    ["one level too many", `{"user":${"[".repeat(JSON_DEPTH_MAX)}${"]".repeat(JSON_DEPTH_MAX)}}`],
  ])("deep nesting is a 400: %s", async (_name, body) => {
    const { status, message } = await refusal(completions, { headers: json, body });
    expect(status).toBe(400);
    expect(message).toContain("nested");
  });

  test("strings that look like structure are none", async () => {
    const prompt = 'say "a": {[{"a":1,"a":2}]} \\" \\';
    const { post, engine } = setUp();
    expect((await post(completions, { prompt, user: { a: [{ a: "a" }, { a: ":" }] } })).status).toBe(200);
    expect(engine.text.decode(engine.submissions[0].request.promptIds)).toBe(prompt);
  });

  test("bytes that are not UTF-8 are a 400", async () => {
    const body = new Uint8Array([...new TextEncoder().encode('{"prompt":"'), 0xff, 0xc0, 0x22, 0x7d]);
    const { status, message } = await refusal(completions, { headers: json, body });
    expect(status).toBe(400);
    expect(message).toContain("UTF-8");
  });
});

describe("size", () => {
  const tooLong = `{"prompt":"${"x".repeat(REQUEST_BODY_BYTES_MAX)}"}`;

  test("a declared length over the limit is a 413 before the body is read", async () => {
    const headers = { ...json, "content-length": String(REQUEST_BODY_BYTES_MAX + 1) };
    expect((await refusal(completions, { headers, body: "{}" })).status).toBe(413);
  });

  test("a body without a length is cut off at the limit", async () => {
    let chunkCount = 0;
    let cancelled = false;
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => {
        chunkCount++;
        controller.enqueue(new Uint8Array(1024 * 1024).fill(0x20));
      },
      cancel: () => {
        cancelled = true;
      },
    });
    const init = { headers: json, body: endless, duplex: "half" } as RequestInit;
    expect((await refusal(completions, init)).status).toBe(413);
    expect(cancelled).toBe(true);
    expect(chunkCount).toBeLessThan(REQUEST_BODY_BYTES_MAX / 1024 / 1024 + 4);
  });

  test("one byte decides", async () => {
    const atLimit = '{"prompt":7}'.padEnd(REQUEST_BODY_BYTES_MAX);
    expect((await refusal(completions, { headers: json, body: atLimit })).status).toBe(400);
    expect((await refusal(completions, { headers: json, body: `${atLimit} ` })).status).toBe(413);
    expect((await refusal(completions, { headers: json, body: tooLong })).status).toBe(413);
  });

  test("a million wrong elements make one short message", async () => {
    const million = Array.from({ length: 1_000_000 }, () => true);
    for (const body of [{ messages: million }, { messages: [{ role: "user", content: million }] }]) {
      expect((await refusal(chat, { headers: json, body: JSON.stringify(body) })).status).toBe(400);
    }
    const bodies = [{ prompt: million }, { prompt: "a", stop: million }];
    for (const body of bodies) {
      expect((await refusal(completions, { headers: json, body: JSON.stringify(body) })).status).toBe(400);
    }
  });

  test("a broken transfer is the client's fault", async () => {
    const broken = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.error(new Error("connection reset")),
    });
    const init = { headers: json, body: broken, duplex: "half" } as RequestInit;
    expect((await refusal(completions, init)).status).toBe(400);
  });
});

test("a body that does not come to its end in time is a 408, and the connection ends with it", async () => {
  const { app, timers, engine } = setUp();
  let cancelled = false;
  const slow = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(new TextEncoder().encode('{"prompt":')),
    cancel: () => {
      cancelled = true;
    },
  });
  const init = { method: "POST", headers: json, body: slow, duplex: "half" } as RequestInit;
  const answer = app.request(completions, init);
  await until(() => timers.count > 0);
  timers.fireAll();
  const response = await answer;
  expect([response.status, response.headers.get("connection")]).toEqual([408, "close"]);
  expect(((await response.json()) as ErrorJson).error).toMatchObject({
    type: "timeout_error",
    code: "request_timeout",
  });
  expect([cancelled, timers.count, engine.submissions]).toEqual([true, 0, []]);
});
