/**
 * The life of a server: it loads, is ready, drains, and may die; what it refuses in which state, and what is under way.
 * Knows no process and no signals.
 */
import type { Context, Next } from "hono";
import type { EngineClient } from "../engine/client.ts";
import { EngineDeadError } from "../engine/errors.ts";
import { DRAIN_RETRY_SECONDS, LOAD_RETRY_SECONDS } from "../limits.ts";
import { HttpError, retryAfter } from "./errors.ts";

export type LifeState = "loading" | "ready" | "draining" | "dead";

/** Answered in every state: they say which it is. */
const probes = new Set(["/health", "/ready"]);
/** Answered while draining too, for whoever watches how that goes. */
const watched = new Set([...probes, "/metrics", "/version"]);

export class ServerLife {
  #engine: EngineClient | null = null;
  #isDraining = false;
  readonly #underWay = new Set<symbol>();
  readonly #cut = new AbortController();
  #onIdle: (() => void) | null = null;

  /** A life that begins with an engine. */
  static of(engine: EngineClient): ServerLife {
    const life = new ServerLife();
    life.begin(engine);
    return life;
  }

  get state(): LifeState {
    if (this.#isDraining) return "draining";
    if (this.#engine === null) return "loading";
    return this.#engine.healthy ? "ready" : "dead";
  }

  /** The engine, which has loaded: no route that needs one is reached before. */
  get engine(): EngineClient {
    if (this.#engine === null) throw new Error("Cannot reach the engine: it is being loaded");
    return this.#engine;
  }

  /** Aborted when what is under way has to end. */
  get cutSignal(): AbortSignal {
    return this.#cut.signal;
  }

  begin(engine: EngineClient): void {
    this.#engine = engine;
  }

  /** Refuses new requests from now on; resolves when none is under way. */
  drain(): Promise<void> {
    this.#isDraining = true;
    return new Promise((resolve) => {
      if (this.#underWay.size === 0) resolve();
      else this.#onIdle = resolve;
    });
  }

  /** Ends the generations under way with an error that their clients are told of. */
  cut(): void {
    this.#cut.abort(refusal("draining"));
  }

  /** Throws what a client is told of a server that is not ready. */
  assertReady(): void {
    const { state } = this;
    if (state === "dead")
      throw new EngineDeadError("Cannot generate: expected a running engine, got a dead one");
    if (state !== "ready") throw refusal(state);
  }

  /** Middleware: refuses what cannot be answered in this state, and counts what is under way to the end of its body. */
  async guard(c: Context, next: Next): Promise<void> {
    const { path } = c.req;
    const { state } = this;
    if (state === "loading" && !probes.has(path)) throw refusal(state);
    if (state === "draining" && !watched.has(path)) throw refusal(state);
    const leave = this.#enter();
    await next();
    if (isStream(c.res)) c.res = new Response(watchEnd(c.res.body, leave), c.res);
    else leave();
  }

  /** Counts a request; the function returned, which may be called again, tells that it has ended. */
  #enter(): () => void {
    const request = Symbol();
    this.#underWay.add(request);
    return () => {
      this.#underWay.delete(request);
      if (this.#underWay.size === 0) this.#onIdle?.();
    };
  }
}

const refusals = {
  loading: { code: "loading", what: "is loading its model", retrySeconds: LOAD_RETRY_SECONDS },
  draining: { code: "shutting_down", what: "is shutting down", retrySeconds: DRAIN_RETRY_SECONDS },
};

function refusal(state: "loading" | "draining"): HttpError {
  const { code, what, retrySeconds } = refusals[state];
  const message = `Cannot answer the request: expected a server that is ready, got one that ${what}`;
  return new HttpError(503, message, { code, headers: retryAfter(retrySeconds) });
}

function isStream(response: Response): response is Response & { body: ReadableStream<Uint8Array> } {
  return response.body !== null && Boolean(response.headers.get("content-type")?.includes("event-stream"));
}

/** The same bytes at the same pace; `onEnd` is called when they end, fail, or nobody wants them any more. */
function watchEnd(body: ReadableStream<Uint8Array>, onEnd: () => void): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await reader.read().catch((error: unknown) => {
          onEnd();
          throw error;
        });
        if (!done) return controller.enqueue(value);
        controller.close();
        onEnd();
      },
      async cancel(reason) {
        onEnd();
        await reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}
