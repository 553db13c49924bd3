import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "bun:test";
import { send, toLoadRequest } from "../../../src/commands/load-test/client.ts";
import { findModel, parseBaseUrl } from "../../../src/commands/load-test/target.ts";
import { SetupError } from "../../../src/errors.ts";
import { rejection } from "../../support/rejection.ts";

const servers: Server[] = [];

/** A server that answers as the test says. */
async function serve(listener: RequestListener): Promise<URL> {
  const server = createServer(listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`);
}

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

const request = { body: "{}", promptTokens: 9 };

/** A clock that moves on by 1 ms whenever it is read. */
function counter(): () => number {
  let nowMs = 0;
  return () => nowMs++;
}

const sendTo = (url: URL, signal = new AbortController().signal) =>
  send(request, { url, now: counter(), signal });

/** Answers with these frames, and ends the connection in the middle of things if told so. */
const streams =
  (frames: readonly string[], isCut = false): RequestListener =>
  (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(frames.join(""), () => (isCut ? response.destroy() : response.end()));
  };

const chunk = (text: string, finish: string | null = null) =>
  `data: ${JSON.stringify({ choices: [{ text, finish_reason: finish }] })}\n\n`;
const usage = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 4, completion_tokens: 2 } })}\n\n`;
const done = "data: [DONE]\n\n";

describe("an answer", () => {
  test("is timed and counted", async () => {
    const url = await serve(streams([": ping\n\n", chunk("a"), chunk("b", "stop"), usage, done]));
    const outcome = await sendTo(url);
    expect(outcome).toMatchObject({ type: "completed", promptTokens: 4, outputTokens: 2, isCounted: true });
    if (outcome.type !== "completed") throw new Error("not completed");
    expect(outcome.ttftMs).toBeGreaterThan(0);
    expect(outcome.itlMs.length).toBe(1);
    expect(outcome.latencyMs).toBe(outcome.ttftMs + outcome.itlMs[0]);
  });

  test("without usage counts what was sent, and chunks", async () => {
    const url = await serve(streams([chunk("a"), chunk("b"), chunk("c"), done]));
    expect(await sendTo(url)).toMatchObject({ promptTokens: 9, outputTokens: 3, isCounted: false });
  });

  test("may end with a finish reason instead of [DONE]", async () => {
    const url = await serve(streams([chunk("a", "length")]));
    expect(await sendTo(url)).toMatchObject({ type: "completed" });
  });
});

describe("a failure", () => {
  const failure = async (listener: RequestListener) => {
    const outcome = await sendTo(await serve(listener));
    return outcome.type === "failed" ? outcome.error : outcome.type;
  };
  const refuses =
    (status: number, body: unknown): RequestListener =>
    (_request, response) =>
      void response
        .writeHead(status, { "content-type": "application/json" })
        .end(typeof body === "string" ? body : JSON.stringify(body));

  test("names the parameter that the server refuses", async () => {
    const error = {
      message: "expected false",
      type: "invalid_request_error",
      param: "ignore_eos",
      code: null,
    };
    expect(await failure(refuses(400, { error }))).toBe(
      "HTTP 400: refuses the parameter ignore_eos: expected false",
    );
  });

  test.each([
    [{ object: "error", message: "flat", param: null }, "HTTP 422: flat"],
    [{ error: "Unauthorized" }, "HTTP 422: Unauthorized"],
    [{ error: { message: "no param" } }, "HTTP 422: no param"],
    [{ detail: [{ loc: ["body", "n"] }] }, 'HTTP 422: [{"loc":["body","n"]}]'],
    ["plain text\n", "HTTP 422: plain text"],
    ["", "HTTP 422: no reason given"],
    ["x".repeat(400), `HTTP 422: ${"x".repeat(300)}...`],
  ])("is read from the body %p", async (body, expected) => {
    expect(await failure(refuses(422, body))).toBe(expected);
  });

  test("in mid-stream is one of the request", async () => {
    const error = 'data: {"error":{"message":"device lost"}}\n\n';
    expect(await failure(streams([chunk("a"), error, done]))).toBe("in mid-stream: device lost");
  });

  test("is a stream that is cut, or ends early, or says nothing", async () => {
    expect(await failure(streams([chunk("a")], true))).not.toBe("completed");
    expect(await failure(streams([chunk("a")]))).toBe("the stream ended before its answer did");
    expect(await failure(streams([usage, done]))).toBe("the answer has no choices");
  });

  test("is a redirect: it may lead off this machine", async () => {
    expect(
      await failure((_request, response) => void response.writeHead(307, { location: "/elsewhere" }).end()),
    ).toBe("HTTP 307: no reason given");
  });

  test("is a server that is not there", async () => {
    const url = await serve(() => {});
    const [server] = servers.splice(0);
    await new Promise((resolve) => server.close(resolve));
    expect(await sendTo(url)).toMatchObject({ type: "failed", sentMs: 0 });
  });
});

test("a request that we end is cancelled, not failed", async () => {
  const stop = new AbortController();
  const url = await serve((_request, response) => {
    response.writeHead(200);
    response.write(chunk("a"), () => stop.abort());
  });
  expect(await sendTo(url, stop.signal)).toEqual({ type: "cancelled", sentMs: 0 });
});

test("more requests than a runtime's fetch has connections are in flight at once", async () => {
  const count = 300;
  const all = Promise.withResolvers<undefined>();
  let open = 0;
  const url = await serve((_request, response) => {
    if (++open === count) all.resolve(undefined);
    void all.promise.then(() => streams([chunk("a", "stop")])(_request, response));
  });
  const outcomes = await Promise.all(Array.from({ length: count }, () => sendTo(url)));
  expect(outcomes.filter(({ type }) => type === "completed").length).toBe(count);
});

describe("the body of a request", () => {
  const prompt = { content: [1, 2], promptTokens: 2, outputTokens: 5 };
  const bodyOf = (options: Partial<Parameters<typeof toLoadRequest>[1]>) =>
    JSON.parse(
      toLoadRequest(prompt, { endpoint: "completions", model: "m", ignoreEos: false, ...options }).body,
    ) as object;
  const common = { model: "m", max_tokens: 5, stream: true, stream_options: { include_usage: true } };

  test("has nothing that was not asked for", () => {
    expect(bodyOf({})).toEqual({ ...common, prompt: [1, 2] });
  });

  test("has what was asked for", () => {
    expect(bodyOf({ temperature: 0, ignoreEos: true })).toEqual({
      ...common,
      prompt: [1, 2],
      temperature: 0,
      ignore_eos: true,
    });
  });

  test("of a chat is a message", () => {
    expect(bodyOf({ endpoint: "chat" })).toEqual({
      ...common,
      messages: [{ role: "user", content: [1, 2] }],
    });
  });
});

describe("the target", () => {
  test.each([
    ["http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/"],
    ["http://localhost:8000/", "http://localhost:8000/v1/"],
    ["http://[::1]:1/v1", "http://[::1]:1/v1/"],
    ["http://127.1/api/v1/", "http://127.0.0.1/api/v1/"],
  ])("%s is %s", (text, expected) => {
    expect(parseBaseUrl(text).href).toBe(expected);
  });

  test.each([
    "http://192.0.2.1:8000",
    "http://example.com",
    "http://127.0.0.1.example.com",
    "http://localhost.example.com",
    "http://0.0.0.0:8000",
    "http://127.0.0.1@example.com",
    "http://[::ffff:192.0.2.1]/",
    "https://127.0.0.1",
    "127.0.0.1:8000",
    "",
  ])("%p is refused", (text) => {
    expect(() => parseBaseUrl(text)).toThrow(SetupError);
  });

  const lists = (body: unknown): RequestListener => {
    return (_request, response) => void response.writeHead(200).end(JSON.stringify(body));
  };

  test("is the model of that name, or the first", async () => {
    const base = await serve(lists({ data: [{ id: "a" }, { id: "b", max_model_len: 77 }] }));
    expect(await findModel(base, null)).toEqual({ id: "a", maxModelLen: null });
    expect(await findModel(base, "b")).toEqual({ id: "b", maxModelLen: 77 });
    const error = await rejection(findModel(base, "c"));
    expect(error).toBeInstanceOf(SetupError);
    expect(error.message).toBe("Cannot run a load test: expected the server to have c, got a, b");
  });

  test.each([[{ data: [] }], [{ models: [] }], ["nothing"]])("cannot be %p", async (body) => {
    expect(await rejection(findModel(await serve(lists(body)), null))).toBeInstanceOf(SetupError);
  });
});
