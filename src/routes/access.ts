/** Who may ask: API keys, which are known here by their hashes only, and origins of web pages. */
import { createHash, timingSafeEqual } from "node:crypto";
import type { Context, MiddlewareHandler, Next } from "hono";
import { cors } from "hono/cors";
import { CORS_AGE_SECONDS } from "../limits.ts";
import { HttpError } from "./errors.ts";

export interface AccessOptions {
  /** Any of these opens every route; none at all leaves everything open. */
  apiKeys: readonly string[];
  /** Whether `/v1/models`, or `/health` and `/ready`, need no key. */
  publicModels: boolean;
  publicHealth: boolean;
  /** Origins whose pages may use the API, or "*". */
  corsOrigins: readonly string[];
}

export const openAccess: AccessOptions = {
  apiKeys: [],
  publicModels: false,
  publicHealth: true,
  corsOrigins: [],
};

/** Pages hold nothing that is worth a key, and a browser has none to open them with. */
const pages = /^\/(docs|openapi\.json)$/;
const health = /^\/(health|ready)$/;
const models = /^\/v1\/models(\/|$)/;

/** Middleware: refuses a request without one of the keys, as a Bearer token or as `x-api-key`. */
export function requireKey(options: AccessOptions): MiddlewareHandler {
  const hashes = options.apiKeys.map(hash);
  const isPublic = (path: string): boolean =>
    pages.test(path) ||
    (options.publicHealth && health.test(path)) ||
    (options.publicModels && models.test(path));
  return async (c: Context, next: Next) => {
    if (!isPublic(c.req.path) && !isAnyOf(givenKey(c), hashes)) throw unauthorized();
    await next();
  };
}

/** Middleware: tells browsers that pages of these origins may send what OpenAI's and Anthropic's clients send. */
export function allowOrigins({ corsOrigins }: AccessOptions): MiddlewareHandler {
  return cors({
    origin: corsOrigins.includes("*") ? "*" : [...corsOrigins],
    allowMethods: ["GET", "POST", "DELETE"],
    // None by name: those that a preflight asks for (authorization, x-api-key, x-stainless-*, anthropic-*).
    exposeHeaders: ["x-request-id", "request-id", "retry-after", "retry-after-ms"],
    maxAge: CORS_AGE_SECONDS,
  });
}

function givenKey(c: Context): string {
  const bearer = /^bearer +(\S+)$/i.exec(c.req.header("authorization") ?? "");
  return bearer?.[1] ?? c.req.header("x-api-key") ?? "";
}

/** Takes as long whichever it is, if any: hashes have one length, and all are compared. */
function isAnyOf(key: string, hashes: readonly Buffer[]): boolean {
  const given = hash(key);
  return hashes.map((known) => timingSafeEqual(known, given)).includes(true);
}

function hash(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

function unauthorized(): HttpError {
  const message =
    "Cannot answer the request: expected an API key (Authorization: Bearer KEY, or x-api-key), got none that is known";
  return new HttpError(401, message, { code: "invalid_api_key", headers: { "www-authenticate": "Bearer" } });
}
