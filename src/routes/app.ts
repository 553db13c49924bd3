/** The HTTP application: which path goes where, and what surrounds every request. */
import { type Context, Hono } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { EngineDeadError } from "../engine/errors.ts";
import { chatCompletions } from "./chat-completions.ts";
import { completions } from "./completions.ts";
import { answerWith } from "./endpoint.ts";
import { HttpError, isServerFailure, quote, toErrorAnswerAt } from "./errors.ts";
import { countTokens, messages } from "./messages/messages.ts";
import { modelEntry, modelList } from "./models.ts";
import { checkModel } from "./parameters.ts";
import { REQUEST_ID, setRequestId } from "./request-id.ts";
import { ResponseStore } from "./responses/response-store.ts";
import { responses } from "./responses/responses.ts";
import { addStoredResponses } from "./responses/stored-responses.ts";
import { type AppEnv, defaultChatSettings, type Services } from "./services.ts";

/** `log` defaults to silence and `startTimer` to the runtime's timers. */
export type AppOptions = Omit<Services, "log" | "startTimer" | "chat"> & Partial<Services>;

export function createApp(options: AppOptions): Hono<AppEnv> {
  const services: Services = {
    log: () => {},
    startTimer: startRuntimeTimer,
    chat: defaultChatSettings,
    ...options,
  };
  const app = new Hono<AppEnv>();
  surround(app, services);
  addRoutes(app, services);
  return app;
}

function addRoutes(app: Hono<AppEnv>, services: Services): void {
  const { engine } = services;
  app.get("/health", (c) => {
    if (!engine.healthy)
      throw new EngineDeadError("Cannot generate: expected a running engine, got a dead one");
    return c.json({ status: "ok" });
  });
  app.get("/v1/models", (c) => c.json(modelList(engine.model)));
  // A model's name may contain slashes.
  app.get("/v1/models/:name{.+}", (c) => {
    checkModel(c.req.param("name"), engine.model);
    return c.json(modelEntry(engine.model));
  });
  app.post("/v1/completions", answerWith(completions, services));
  app.post("/v1/chat/completions", answerWith(chatCompletions, services));
  app.post("/v1/messages", answerWith(messages, services));
  app.post("/v1/messages/count_tokens", countTokens(services));
  const store = new ResponseStore();
  app.post("/v1/responses", answerWith(responses(store), services));
  addStoredResponses(app, store);

  for (const path of ["/health", "/v1/models", "/v1/models/:name{.+}"]) app.all(path, refuseMethod("GET"));
  for (const path of [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
  ]) {
    app.all(path, refuseMethod("POST"));
  }
  app.all("/v1/responses/:id", refuseMethod("GET, DELETE"));
  app.all("/v1/responses/:id/input_items", refuseMethod("GET"));
}

function refuseMethod(allowed: string): (c: Context<AppEnv>) => never {
  return (c) => {
    const message = `Cannot ${c.req.method} ${quote(c.req.path)}: expected ${allowed}, got ${c.req.method}`;
    throw new HttpError(405, message, { code: "method_not_allowed", headers: { allow: allowed } });
  };
}

/** Request ids, the log, and errors. */
function surround(app: Hono<AppEnv>, services: Services): void {
  const { clock, log } = services;
  app.use(async (c, next) => {
    const startMs = clock();
    const requestId = toRequestId(c.req.header("x-request-id")) ?? `req-${services.newId()}`;
    setRequestId(c, requestId);
    await next();
    const { method, path } = c.req;
    // A body may have named the request otherwise.
    log({
      type: "request",
      requestId: c.get("requestId"),
      method,
      path,
      status: c.res.status,
      durationMs: clock() - startMs,
    });
  });
  app.use((_c, next) => next().catch(rethrowAsError));
  app.notFound((c) => {
    const message = `Cannot ${c.req.method} ${quote(c.req.path)}: expected a route of this API, got another`;
    return sendError(c, new HttpError(404, message, { code: "unknown_url" }), services);
  });
  app.onError((error, c) => sendError(c, error, services));
}

/** Hono hands on what is an `Error` only. */
function rethrowAsError(thrown: unknown): never {
  throw thrown instanceof Error
    ? thrown
    : new Error("Cannot answer: something was thrown", { cause: thrown });
}

function sendError(c: Context<AppEnv>, error: Error, { log }: Services): Response {
  // The client has left: nobody reads this, but the log keeps the status that nginx uses for it.
  if (c.req.raw.signal.aborted) return new Response(null, { status: 499 });
  const requestId = c.get("requestId");
  const { status, headers, body } = toErrorAnswerAt(c.req.path, error, requestId);
  if (isServerFailure(error)) log({ type: "error", requestId, error });
  return c.json(body, status as ContentfulStatusCode, headers);
}

/** The client's own id if it can go into a header and a log line as it is. */
function toRequestId(given: string | undefined): string | null {
  return given !== undefined && REQUEST_ID.test(given) ? given : null;
}

function startRuntimeTimer(delayMs: number, callback: () => void): () => void {
  const timer = setTimeout(callback, delayMs);
  return () => clearTimeout(timer);
}
