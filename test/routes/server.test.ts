import { afterEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { SetupError } from "../../src/engine/errors.ts";
import { REQUEST_BODY_BYTES_MAX, REQUEST_HEADER_BYTES_MAX } from "../../src/limits.ts";
import { type Deadlines, listen, type Server } from "../../src/routes/server.ts";
import { aborted, say, sayThenWait, ScriptedClient } from "../support/scripted-client.ts";
import { chat, type ErrorJson, hello, setUp, until } from "./support.ts";

const open: Server[] = [];

/** A server on a free port of this machine; it is closed after the test. */
async function serve(engine = new ScriptedClient(), deadlines: Partial<Deadlines> = {}) {
  const set = setUp(engine);
  const server = await listen(set.app, { host: "127.0.0.1", port: 0, deadlines });
  open.push(server);
  const post = (body: unknown, signal?: AbortSignal): Promise<Response> =>
    fetch(server.url + chat, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
  return { ...set, server, post };
}

afterEach(async () => {
  await Promise.all(open.splice(0).map((server) => server.close()));
});

describe("listening", () => {
  test("port 0 takes a free one, and close gives it back", async () => {
    const { server } = await serve();
    expect(server.port).toBeGreaterThan(0);
    expect(server.url).toBe(`http://127.0.0.1:${server.port}`);
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
    await server.close();
    open.length = 0;
    const again = await listen(setUp().app, { host: "127.0.0.1", port: server.port });
    open.push(again);
    expect((await fetch(`${again.url}/health`)).status).toBe(200);
  });

  test("all interfaces are reached on this one", async () => {
    const server = await listen(setUp().app, { host: "0.0.0.0", port: 0 });
    open.push(server);
    expect(server.url).toBe(`http://127.0.0.1:${server.port}`);
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
  });

  test("a port in use is a SetupError that says what to do", async () => {
    const { server } = await serve();
    const second = listen(setUp().app, { host: "127.0.0.1", port: server.port });
    const error = await second.then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(SetupError);
    expect((error as SetupError).message).toBe(
      `Cannot listen on "127.0.0.1" port ${server.port}: ` +
        "expected a free address, got one in use; choose another --port or --host",
    );
  });

  test.each([
    ["no host at all", 0],
    ["203.0.113.7", 0],
    ["127.0.0.1", 65_536],
  ])("%s port %i is a SetupError", async (host, port) => {
    const error = await listen(setUp().app, { host, port }).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(SetupError);
    expect((error as SetupError).message).toContain(`Cannot listen on "${host}" port ${port}: expected `);
  });
});

describe("a connection", () => {
  test("gets chunks as they come, not at the end", async () => {
    const gate = Promise.withResolvers<undefined>();
    const engine = new ScriptedClient(async function* (request, signal) {
      yield { type: "text", choice: 0, text: "first", tokenIds: [] };
      await gate.promise;
      yield* say("second")(request, signal);
    });
    const { post } = await serve(engine);
    const response = await post({ ...hello, stream: true });
    const reader = response.body!.getReader();
    const decoder = new TextDecoder();
    let seen = "";
    const readOn = async (): Promise<boolean> => {
      const { done, value } = await reader.read();
      seen += decoder.decode(value, { stream: true });
      return !done;
    };
    while (!seen.includes("first")) await readOn();
    expect(seen).not.toContain("second");
    gate.resolve(undefined);
    while (await readOn());
    expect(seen).toContain("second");
    expect(seen.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  test("that closes in mid-stream aborts the request", async () => {
    const { post, engine } = await serve(new ScriptedClient(sayThenWait("Hello")));
    const client = new AbortController();
    const response = await post({ ...hello, stream: true }, client.signal);
    await response.body!.getReader().read();
    expect(engine.submissions[0].signal.aborted).toBe(false);
    client.abort();
    await aborted(engine.submissions[0].signal);
  });

  test.each([true, false])("that closes before the first event aborts it too, stream %p", async (stream) => {
    const { post, engine, log } = await serve(new ScriptedClient(sayThenWait()));
    const client = new AbortController();
    const response = post({ ...hello, stream }, client.signal).catch((error: unknown) => error);
    await until(() => engine.submissions.length > 0);
    expect(engine.submissions[0].signal.aborted).toBe(false);
    client.abort();
    expect(await response).toBeInstanceOf(Error);
    await aborted(engine.submissions[0].signal);
    await until(() => log.length > 0);
    expect(log.filter((entry) => entry.type === "error")).toEqual([]);
  });

  test("is ended when the server closes, which aborts its request", async () => {
    const { post, engine, server } = await serve(new ScriptedClient(sayThenWait("Hello")));
    const response = await post({ ...hello, stream: true });
    const rest = response.text().catch((error: unknown) => error);
    open.length = 0;
    await server.close();
    await aborted(engine.submissions[0].signal);
    await rest;
  });

  test("survives a chunked body over the limit, with a 413", async () => {
    const { server, post } = await serve();
    const mebibyte = 1024 * 1024;
    const answer = await rawChunkedPost(server.port, {
      chunkBytes: mebibyte,
      chunkCount: REQUEST_BODY_BYTES_MAX / mebibyte + 1,
    });
    expect(answer).toContain("HTTP/1.1 413");
    expect(answer).toContain("request_too_large");
    expect((await post(hello)).status).toBe(200);
  });

  test("with malformed JSON gets the API's error", async () => {
    const { server } = await serve();
    const headers = { "content-type": "application/json", "x-request-id": "mine" };
    const response = await fetch(server.url + chat, { method: "POST", headers, body: "{" });
    expect([response.status, response.headers.get("x-request-id")]).toEqual([400, "mine"]);
    expect(((await response.json()) as ErrorJson).error.type).toBe("invalid_request_error");
  });
});

describe("a connection that does not send what it should", () => {
  // Everything is late at once; that it is not closed at once is no concern of these tests.
  const soon = { head: 50, request: 100, idle: 50, interval: 20 };
  const head = `POST ${chat} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n`;

  test.each([
    ["nothing at all", "", /^(HTTP\/1.1 408 .*)?$/s],
    ["a part of a head", head, /^HTTP\/1.1 408 /],
    ["a part of a body", `${head}content-length: 99\r\n\r\n{"model":`, /^HTTP\/1.1 (408|400) /],
  ])("is closed after %s", async (_name, sent, expected) => {
    const { server, engine, post } = await serve(new ScriptedClient(), soon);
    expect(await untilClosed(server.port, sent)).toMatch(expected);
    expect((await post(hello)).status).toBe(200);
    expect(engine.submissions.length).toBe(1);
  });

  test("is closed when it has had its answer and asks no more", async () => {
    const { server } = await serve(new ScriptedClient(), soon);
    const answer = await untilClosed(server.port, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    expect(answer).toContain("HTTP/1.1 200");
  });

  test("has as long as it likes for reading its answer", async () => {
    const gate = Promise.withResolvers<undefined>();
    const engine = new ScriptedClient(async function* (request, signal) {
      await gate.promise;
      yield* say("late")(request, signal);
    });
    const { post, server } = await serve(engine, soon);
    const response = post(hello);
    await until(() => engine.submissions.length > 0);
    // Another connection, which is closed by the deadlines that do not hold for this one.
    await untilClosed(server.port, head);
    gate.resolve(undefined);
    expect(await (await response).text()).toContain("late");
  });

  test("a head over the limit is refused", async () => {
    const { server } = await serve();
    const long = `${head}x-long: ${"a".repeat(REQUEST_HEADER_BYTES_MAX)}\r\n\r\n`;
    expect(await untilClosed(server.port, long)).toMatch(/^HTTP\/1.1 431 /);
  });
});

describe("finish", () => {
  test("waits for the answers under way, and for no idle connection", async () => {
    const gate = Promise.withResolvers<undefined>();
    const engine = new ScriptedClient(async function* (request, signal) {
      await gate.promise;
      yield* say("late")(request, signal);
    });
    const { post, server } = await serve(engine);
    await (await fetch(`${server.url}/health`)).text();
    const response = post(hello);
    await until(() => engine.submissions.length > 0);
    const finished = server.finish();
    gate.resolve(undefined);
    expect(await (await response).text()).toContain("late");
    await finished;
  });
});

/** What a bare socket is answered, until the server closes it. */
function untilClosed(port: number, text: string): Promise<string> {
  return new Promise((resolve) => {
    let answer = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    socket.on("data", (data) => (answer += data.toString()));
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => resolve(answer));
  });
}

/** Sends a chunked body over a bare socket, since fetch would give up on an early answer. Returns that answer. */
function rawChunkedPost(port: number, body: { chunkBytes: number; chunkCount: number }): Promise<string> {
  const head = `POST ${chat} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n`;
  const chunk = `${body.chunkBytes.toString(16)}\r\n${" ".repeat(body.chunkBytes)}\r\n`;
  return new Promise((resolve, reject) => {
    let answer = "";
    const socket = connect(port, "127.0.0.1", () => {
      socket.write(head);
      for (let sent = 0; sent < body.chunkCount; sent++) socket.write(chunk);
    });
    socket.on("data", (data) => {
      answer += data.toString();
      if (answer.includes("request_too_large")) socket.destroy();
    });
    socket.on("close", () => resolve(answer));
    socket.on("error", (error) => (answer ? resolve(answer) : reject(error)));
  });
}
