/** The HTTP application: which path goes where, and what surrounds every request. */
import { type Context, Hono } from "hono";
import { routePath } from "hono/route";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { EngineClient } from "../engine/client.ts";
import { type AccessOptions, allowOrigins, openAccess, requireKey } from "./access.ts";
import { chatCompletions } from "./chat-completions.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import { answerWith } from "./endpoint.ts";
import { HttpError, isServerFailure, quote, toErrorAnswerAt } from "./errors.ts";
import { ServerLife } from "./life.ts";
import { countTokens, messages } from "./messages/messages.ts";
import { Metrics } from "./metrics.ts";
import { modelEntry, modelList } from "./models.ts";
import { addDocs } from "./openapi/add-docs.ts";
import { type About, addOperations } from "./operations.ts";
import { checkModel } from "./parameters.ts";
import { live } from "./playground/live.ts";
import { addPage } from "./playground/page.ts";
import { REQUEST_ID, setRequestId } from "./request-id.ts";
import { ResponseStore } from "./responses/response-store.ts";
import { responses } from "./responses/responses.ts";
import { addStoredResponses } from "./responses/stored-responses.ts";
import { type AppEnv, type ChatSettings, defaultChatSettings, type Services } from "./services.ts";
import { WatchedEngine } from "./watched-engine.ts";
import { detokenize, tokenize } from "./tokenize.ts";

export interface AppOptions extends Omit<Services, "engine" | "chat" | "log" | "startTimer"> {
  /** Or the life of a server whose engine comes later. */
  engine: EngineClient | ServerLife;
  chat?: ChatSettings;
  /** Silence by default. */
  log?: Services["log"];
  /** The runtime's timers by default. */
  startTimer?: Services["startTimer"];
  /** Open to everybody on this machine by default. */
  access?: Partial<AccessOptions>;
  about?: About;
  logsPrompts?: boolean;
}

export function createApp(options: AppOptions): Hono<AppEnv> {
  const life = options.engine instanceof ServerLife ? options.engine : ServerLife.of(options.engine);
  const metrics = new Metrics();
  const services = toServices(options, { life, metrics });
  const app = new Hono<AppEnv>();
  surround(app, services, metrics);
  // In every state of the server, and for everybody: it holds nothing that is worth a key.
  addPage(app);
  const access = { ...openAccess, ...options.access };
  if (access.corsOrigins.length > 0) app.use(allowOrigins(access));
  if (access.apiKeys.length > 0) app.use(requireKey(access));
  app.use((c, next) => life.guard(c, next));
  const { about = { version: "unknown", runtime: "unknown" } } = options;
  addOperations(app, services, { life, metrics, about });
  addDocs(app, about.version);
  app.get("/live", live(services, life));
  addRoutes(app, services);
  refuseOtherMethods(app);
  return app;
}

function toServices(
  { clock, newId, randomSeed, log = () => {}, startTimer = startRuntimeTimer, ...options }: AppOptions,
  { life, metrics }: { life: ServerLife; metrics: Metrics },
): Services {
  const { chat = defaultChatSettings, logsPrompts = false } = options;
  let watched: EngineClient | undefined;
  return {
    chat,
    clock,
    newId,
    randomSeed,
    log,
    startTimer,
    /** Not to be reached for before it has loaded, when routes are added. */
    get engine() {
      const { cutSignal } = life;
      watched ??= new WatchedEngine(life.engine, { clock, log, metrics, cutSignal, logsPrompts });
      return watched;
    },
  };
}

function addRoutes(app: Hono<AppEnv>, services: Services): void {
  app.get("/v1/models", (c) => c.json(modelList(services.engine.model)));
  // A model's name may contain slashes.
  app.get("/v1/models/:name{.+}", (c) => {
    const { model } = services.engine;
    checkModel(c.req.param("name"), model);
    return c.json(modelEntry(model));
  });
  app.post("/v1/completions", answerWith(completions, services));
  app.post("/v1/chat/completions", answerWith(chatCompletions, services));
  app.post("/v1/embeddings", embeddings(services));
  for (const base of ["", "/v1"]) {
    app.post(`${base}/tokenize`, tokenize(services));
    app.post(`${base}/detokenize`, detokenize(services));
  }
  app.post("/v1/messages", answerWith(messages, services));
  app.post("/v1/messages/count_tokens", countTokens(services));
  const store = new ResponseStore();
  app.post("/v1/responses", answerWith(responses(store), services));
  addStoredResponses(app, store);
}

/** Whatever methods a path has, any other is refused with their names. */
function refuseOtherMethods(app: Hono<AppEnv>): void {
  const methodsOf = Map.groupBy(
    app.routes.filter(({ method }) => method !== "ALL"),
    ({ path }) => path,
  );
  for (const [path, routes] of methodsOf) {
    app.all(path, refuseMethod(routes.map(({ method }) => method).join(", ")));
  }
}

function refuseMethod(allowed: string): (c: Context<AppEnv>) => never {
  return (c) => {
    const message = `Cannot ${c.req.method} ${quote(c.req.path)}: expected ${allowed}, got ${c.req.method}`;
    throw new HttpError(405, message, { code: "method_not_allowed", headers: { allow: allowed } });
  };
}

/** Request ids, the log, counts, and errors. */
function surround(app: Hono<AppEnv>, services: Services, metrics: Metrics): void {
  const { clock, log } = services;
  app.use(async (c, next) => {
    const startMs = clock();
    const requestId = toRequestId(c.req.header("x-request-id")) ?? `req-${services.newId()}`;
    setRequestId(c, requestId);
    await next();
    const { method, path } = c.req;
    const { status } = c.res;
    metrics.countHttp({ handler: routeOf(c), method, status });
    const durationMs = clock() - startMs;
    // A body may have named the request otherwise.
    log({ type: "request", requestId: c.get("requestId"), method, path, status, durationMs });
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

/** The pattern of the route that answered; of others, one name for all. */
function routeOf(c: Context): string {
  const route = routePath(c, -1);
  return route === "" || route === "/*" || route === "*" ? "none" : route;
}

function startRuntimeTimer(delayMs: number, callback: () => void): () => void {
  const timer = setTimeout(callback, delayMs);
  return () => clearTimeout(timer);
}
