/** A listening socket for an application, on Bun and on Deno. */
import type { Server as HttpServer } from "node:http";
import { SetupError } from "../engine/errors.ts";
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
}

export interface Server {
  /** Where a client on this machine reaches the server, without a slash at its end. */
  url: string;
  port: number;
  /** Takes no more connections and ends those that are open, which aborts what they wait for. */
  close(): Promise<void>;
}

interface Listener {
  port: number;
  close(): Promise<void>;
}

/** Serves `app`. Rejects with `SetupError` if the address cannot be had. */
export async function listen(app: FetchHandler, { host, port }: ListenOptions): Promise<Server> {
  try {
    const listener =
      "Deno" in globalThis ? await listenOnNode(app, { host, port }) : listenOnBun(app, { host, port });
    return { ...listener, url: `http://${reachableHost(host)}:${listener.port}` };
  } catch (error) {
    throw new SetupError(`Cannot listen on ${quote(host)} port ${port}: ${adviceFor(error)}`, {
      cause: error,
    });
  }
}

function listenOnBun(app: FetchHandler, { host, port }: ListenOptions): Listener {
  const server = Bun.serve({
    hostname: host,
    port,
    fetch: (request) => app.fetch(request),
    // The default of 10 s ends streams that are silent and answers that take their time.
    idleTimeout: 0,
    // The routes count the body themselves, and answer in the API's own shape.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    development: false,
    // Else Bun's production mode shares a port in use with whoever has it, in silence.
    reusePort: false,
  });
  return { port: server.port ?? port, close: () => server.stop(true) };
}

/**
 * For Deno, through its node:http: `Deno.serve` (2.9.5) does not notice a client that leaves before the first byte of
 * its answer if the request's body came in a packet of its own, and the generation would go on.
 */
async function listenOnNode(app: FetchHandler, { host, port }: ListenOptions): Promise<Listener> {
  const { serve } = await import("@hono/node-server");
  return new Promise((resolve, reject) => {
    const options = { fetch: (request: Request) => app.fetch(request), hostname: host, port };
    const server = serve({ ...options, overrideGlobalObjects: false }, (address) => {
      resolve({ port: address.port, close: () => end(server as HttpServer) });
    });
    server.on("error", reject);
  });
}

function end(server: HttpServer): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
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
