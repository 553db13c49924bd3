/** A listening socket for an application, on Bun and on Deno. */
import type { Server as HttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { SetupError } from "../engine/errors.ts";
import {
  CONNECTION_CHECK_INTERVAL_MS,
  IDLE_CHECK_INTERVAL_MS,
  KEEP_ALIVE_MS_MAX,
  REQUEST_HEADER_BYTES_MAX,
  REQUEST_HEADER_MS_MAX,
  REQUEST_MS_MAX,
} from "../limits.ts";
import { quote } from "./errors.ts";

/** What is needed of a Hono application. */
export interface FetchHandler {
  fetch(request: Request): Response | Promise<Response>;
}

export interface ListenOptions {
  /** A name or an address. "0.0.0.0" and "::" are all interfaces. */
  host: string;
  /** 0 takes a free one. */
  port: number;
  /** What is left out is as in `limits.ts`. */
  deadlines?: Partial<Deadlines>;
}

/** Milliseconds after which a connection is closed that does not send what it should. */
export interface Deadlines {
  /** The head of a request, and all of it. */
  head: number;
  request: number;
  /** The next request. */
  idle: number;
  /** How often these are looked after. */
  interval: number;
}

const defaultDeadlines: Deadlines = {
  head: REQUEST_HEADER_MS_MAX,
  // The routes give up on a body before, and in the API's own shape.
  request: REQUEST_MS_MAX,
  idle: KEEP_ALIVE_MS_MAX,
  interval: CONNECTION_CHECK_INTERVAL_MS,
};

export interface Server {
  /** Where a client on this machine reaches the server, without a slash at its end. */
  url: string;
  port: number;
  /** Takes no more connections; resolves when all requests under way have their answers. */
  finish(): Promise<void>;
  /** Takes no more connections and ends those that are open, which aborts what they wait for. */
  close(): Promise<void>;
}

/**
 * Serves `app`. Rejects with `SetupError` if the address cannot be had.
 *
 * Through node:http on both runtimes: it has deadlines for headers and bodies, which `Bun.serve` (1.4.5) has not, and
 * it notices a client that leaves before the first byte of its answer, which `Deno.serve` (2.9.5) does not if the
 * request's body came in a packet of its own.
 */
export async function listen(app: FetchHandler, { host, port, deadlines }: ListenOptions): Promise<Server> {
  try {
    const server = toServer(app, { ...defaultDeadlines, ...deadlines });
    const taken = await open(server, host, port);
    return { port: taken, url: `http://${reachableHost(host)}:${taken}`, ...endings(server) };
  } catch (error) {
    throw new SetupError(`Cannot listen on ${quote(host)} port ${port}: ${adviceFor(error)}`, {
      cause: error,
    });
  }
}

function toServer(app: FetchHandler, { head, request, idle, interval }: Deadlines): HttpServer {
  const server = createAdaptorServer({
    fetch: (request) => app.fetch(request),
    overrideGlobalObjects: false,
    serverOptions: {
      maxHeaderSize: REQUEST_HEADER_BYTES_MAX,
      headersTimeout: head,
      requestTimeout: request,
      keepAliveTimeout: idle,
      connectionsCheckingInterval: interval,
    },
  });
  return server as HttpServer;
}

function open(server: HttpServer, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
  });
}

function endings(server: HttpServer): Pick<Server, "finish" | "close"> {
  let finishing: Promise<void> | undefined;
  const finish = () => {
    finishing ??= new Promise<void>((resolve) => {
      // Connections whose answer has left become idle one by one.
      const timer = setInterval(() => server.closeIdleConnections(), IDLE_CHECK_INTERVAL_MS);
      server.close(() => {
        clearInterval(timer);
        resolve();
      });
      server.closeIdleConnections();
    });
    return finishing;
  };
  const close = () => {
    const finished = finish();
    server.closeAllConnections();
    return finished;
  };
  return { finish, close };
}

function reachableHost(host: string): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  if (host === "::") return "[::1]";
  return host.includes(":") ? `[${host}]` : host;
}

function adviceFor(error: unknown): string {
  const { code, message } = error as { code?: string; message?: string };
  if (error instanceof RangeError) return "expected a port from 0 to 65535, got another number";
  if (code === "EADDRINUSE")
    return "expected a free address, got one in use; choose another --port or --host";
  if (code === "EACCES")
    return "expected a port that this user may use, got one it may not; choose 1024 or above";
  return `expected an address of this machine for --host, got "${message}"`;
}
