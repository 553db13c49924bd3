/** A listening server against bytes that are no proper HTTP, bodies that do not come, and clients that leave. */
import { Buffer } from "node:buffer";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { catalogue } from "../../../src/routes/openapi/catalogue.ts";
import { listen, type Server } from "../../../src/routes/server.ts";
import { ScriptedClient } from "../../support/scripted-client.ts";
import { chat, hello, setUp, until } from "../support.ts";

// Slow machines take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const set = setUp(new ScriptedClient());
let server: Server;
beforeAll(async () => {
  const deadlines = { head: 300, request: 600, idle: 300, interval: 50 };
  server = await listen(set.app, { host: "127.0.0.1", port: 0, deadlines });
});
afterAll(async () => {
  await server.close();
  expect(set.log.filter(({ type }) => type === "error")).toEqual([]);
});

/** What is answered until the server closes; `speak` may end or break the connection itself. */
function exchange(speak: (socket: Socket) => void): Promise<string> {
  return new Promise((resolve) => {
    let answer = "";
    const socket = connect(server.port, "127.0.0.1", () => speak(socket));
    socket.on("data", (data) => (answer += data.toString("latin1")));
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => resolve(answer));
  });
}

async function expectServing(): Promise<void> {
  const headers = { "content-type": "application/json" };
  const response = await fetch(server.url + chat, { method: "POST", headers, body: JSON.stringify(hello) });
  expect(response.status).toBe(200);
  expect(await response.json()).toMatchObject({ object: "chat.completion" });
}

/** Every status line must be a refusal; a connection that was just closed has none. */
function expectRefused(answer: string): void {
  const statuses = [...answer.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status));
  for (const status of statuses) {
    expect(status).toBeGreaterThanOrEqual(400);
    expect(status).toBeLessThan(500);
  }
}

const body = JSON.stringify(hello);
const line = (path: string) =>
  `POST ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n`;

const heads: [name: string, bytes: string][] = [
  ["no method", "/ HTTP/1.1\r\n\r\n"],
  ["a line of nonsense", "HELLO\r\n\r\n"],
  ["another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
  ["the beginning of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".padEnd(200, "\x00")],
  ["SSH", "SSH-2.0-OpenSSH_9.6\r\n\r\n"],
  ["zeros", "\0".repeat(4096)],
  ["an unknown version", "GET / HTTP/9.9\r\nhost: x\r\n\r\n"],
  ["an unknown method", "BREW /health HTTP/1.1\r\nhost: x\r\n\r\n"],
  ["a header without a colon", "GET /health HTTP/1.1\r\nhost: x\r\nnonsense\r\n\r\n"],
  ["a header without a name", "GET /health HTTP/1.1\r\nhost: x\r\n: x\r\n\r\n"],
  ["a space in a header's name", "GET /health HTTP/1.1\r\nhost: x\r\nx y: z\r\n\r\n"],
  ["a zero in a header", "GET /health HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n"],
  ["a folded header", "GET /nowhere HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n"],
  ["100 kB of headers", `GET /health HTTP/1.1\r\nhost: x\r\nx: ${"a".repeat(100_000)}\r\n\r\n`],
  ["ten thousand headers", `GET /nowhere HTTP/1.1\r\nhost: x\r\n${"x: y\r\n".repeat(10_000)}\r\n`],
  ["a path of 100 kB", `GET /${"a".repeat(100_000)} HTTP/1.1\r\nhost: x\r\n\r\n`],
  ["a broken escape in the path", "GET /v1/models/%zz%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"],
  ["a path out of the root", "GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"],
  ["a tunnel", "CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n\r\n"],
  ["an upgrade", "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"],
  ["a negative length", `${line(chat)}content-length: -5\r\n\r\n${body}`],
  ["a length that is no number", `${line(chat)}content-length: many\r\n\r\n${body}`],
  ["two lengths", `${line(chat)}content-length: 5\r\ncontent-length: 6\r\n\r\n${body}`],
  [
    "a length and chunks",
    `${line(chat)}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n${body}`,
  ],
  [
    "a chunk whose size is no number",
    `${line(chat)}transfer-encoding: chunked\r\n\r\nzz\r\n${body}\r\n0\r\n\r\n`,
  ],
  ["a chunk beyond all sizes", `${line(chat)}transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n${body}`],
  ["an unknown encoding", `${line(chat)}transfer-encoding: gzip\r\n\r\n${body}`],
  ["a length of exabytes", `${line(chat)}content-length: 999999999999999999\r\n\r\n{}`],
  ["a body that is not JSON", `${line(chat)}content-length: 4\r\n\r\nnope`],
];

describe("no proper HTTP", () => {
  test.each(heads)("%s", async (_name, bytes) => {
    expectRefused(await exchange((socket) => socket.write(Buffer.from(bytes, "latin1"))));
  });

  afterAll(expectServing);
});

describe("bodies of every endpoint", () => {
  const posts = catalogue.flatMap(({ path, body }) => (body ? [path] : []));
  const head = (path: string) => `${line(path)}content-length: 100\r\n\r\n`;
  const refuseAll = async (speak: (socket: Socket, path: string) => void) => {
    const answers = await Promise.all(posts.map((path) => exchange((socket) => speak(socket, path))));
    answers.forEach(expectRefused);
    expect(set.engine.submissions.length).toBe(heard);
  };
  let heard = 0;
  beforeAll(() => (heard = set.engine.submissions.length));
  afterAll(expectServing);

  test("that stop in their midst", () => refuseAll((socket, path) => socket.write(`${head(path)}{"model":`)));

  test("that come a byte at a time", () =>
    refuseAll((socket, path) => {
      socket.write(head(path));
      const timer = setInterval(() => socket.write(" "), 20);
      socket.on("close", () => clearInterval(timer));
    }));

  test("whose client ends its half of the connection", () =>
    refuseAll((socket, path) => socket.end(`${head(path)}{"model":`)));

  test("whose client is gone", () =>
    refuseAll((socket, path) => socket.write(`${head(path)}{"mod`, () => socket.resetAndDestroy())));
});

test("fifty connections that say nothing keep nobody from being served", async () => {
  const silent = Array.from({ length: 50 }, () => connect(server.port, "127.0.0.1"));
  let openCount = 0;
  let closedCount = 0;
  for (const socket of silent) {
    socket.on("connect", () => openCount++);
    socket.on("error", () => {});
    socket.on("close", () => closedCount++);
    socket.resume();
  }
  await until(() => openCount === silent.length);
  await expectServing();
  await until(() => closedCount === silent.length);
});
