/**
 * The one place that turns an error into HTTP: status, headers, and OpenAI's body
 * `{"error":{"message","type","param","code"}}`, the only shape that every known client understands, but for those of
 * Anthropic's API, whose paths get theirs.
 * An error that is not known here is a 500 whose text stays in the log.
 */
import {
  ContextLengthError,
  DeadlineError,
  EngineDeadError,
  InvalidRequestError,
  QueueFullError,
  SlowReaderError,
} from "../engine/errors.ts";
import { ENGINE_RETRY_SECONDS, ERROR_ECHO_CHARS_MAX } from "../limits.ts";

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

export interface ErrorAnswer {
  status: ErrorStatus;
  headers: Record<string, string>;
  body: ErrorBody;
}

/** The same for Anthropic's clients. */
export interface MessagesErrorBody {
  type: "error";
  error: { type: string; message: string };
  request_id: string;
}

export type ErrorStatus = HttpErrorStatus | 429 | 500;

interface HttpErrorOptions {
  code: string;
  param?: string;
  headers?: Record<string, string>;
}

type HttpErrorStatus = 400 | 401 | 404 | 405 | 408 | 413 | 503;

/** A refusal that only HTTP knows: no key, no such route or model, too large a body, a server that is not ready. */
export class HttpError extends Error {
  override name = "HttpError";
  readonly status: HttpErrorStatus;
  readonly options: HttpErrorOptions;
  constructor(status: HttpErrorStatus, message: string, options: HttpErrorOptions) {
    super(message);
    this.status = status;
    this.options = options;
  }
}

/** What the client is told about `error`. Never throws, whatever was thrown. */
export function toErrorAnswer(error: unknown): ErrorAnswer {
  if (error instanceof HttpError) {
    const { code, param = null, headers } = error.options;
    return answer(error.status, { message: error.message, type: typeOf(error), param, code }, headers);
  }
  if (error instanceof InvalidRequestError) return invalidRequest(error);
  if (error instanceof QueueFullError) return queueFull(error);
  if (error instanceof DeadlineError) return timedOut(error, "deadline_exceeded");
  if (error instanceof SlowReaderError) return timedOut(error, "slow_reader");
  if (error instanceof EngineDeadError) return engineDead(error);
  const message = "Cannot answer the request: the server failed; its log says why";
  return answer(500, { message, type: "server_error", param: null, code: "internal_error" });
}

/** The same in the shape that the clients of `path` understand, whatever failed before its route was reached. */
export function toErrorAnswerAt(
  path: string,
  error: unknown,
  requestId: string,
): { status: number; headers: Record<string, string>; body: object } {
  const answer = toErrorAnswer(error);
  if (!/^\/v1\/messages(\/|$)/.test(path)) return answer;
  return { ...answer, status: messagesStatus(answer), body: toMessagesError(error, requestId) };
}

export function toMessagesError(error: unknown, requestId: string): MessagesErrorBody {
  const answer = toErrorAnswer(error);
  const type = messagesTypes.get(messagesStatus(answer)) ?? "invalid_request_error";
  return { type: "error", error: { type, message: answer.body.error.message }, request_id: requestId };
}

/** Anthropic has a status of its own for a server that cannot take more, whoever is to blame for it. */
function messagesStatus({ status, body }: ErrorAnswer): number {
  return status === 503 || body.error.code === "queue_full" ? 529 : status;
}

const messagesTypes = new Map([
  [401, "authentication_error"],
  [403, "permission_error"],
  [404, "not_found_error"],
  [408, "timeout_error"],
  [413, "request_too_large"],
  [429, "rate_limit_error"],
  [500, "api_error"],
  [529, "overloaded_error"],
]);

/** Whether the log should know, as the client cannot help it. */
export function isServerFailure(error: unknown): boolean {
  return !(error instanceof HttpError) && toErrorAnswer(error).status >= 500;
}

function typeOf({ status }: HttpError): string {
  if (status === 408) return "timeout_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

function invalidRequest(error: InvalidRequestError): ErrorAnswer {
  const { message, param } = error;
  const code = error instanceof ContextLengthError ? "context_length_exceeded" : null;
  return answer(400, { message, type: "invalid_request_error", param, code });
}

function queueFull({ message, retryAfterSeconds }: QueueFullError): ErrorAnswer {
  const body = { message, type: "rate_limit_error", param: null, code: "queue_full" };
  return answer(429, body, retryAfter(retryAfterSeconds));
}

/** Nothing is broken and another attempt may do: 408 is a status that OpenAI's clients try again. */
function timedOut({ message }: Error, code: string): ErrorAnswer {
  return answer(408, { message, type: "timeout_error", param: null, code });
}

function engineDead({ message }: EngineDeadError): ErrorAnswer {
  const body = { message, type: "server_error", param: null, code: "engine_unavailable" };
  return answer(503, body, retryAfter(ENGINE_RETRY_SECONDS));
}

/** `Retry-After` counts whole seconds and is for everyone; `retry-after-ms` is what OpenAI's clients look at first. */
export function retryAfter(seconds: number): Record<string, string> {
  return { "retry-after": String(Math.ceil(seconds)), "retry-after-ms": String(Math.ceil(seconds * 1000)) };
}

function answer(
  status: ErrorStatus,
  error: ErrorBody["error"],
  headers: Record<string, string> = {},
): ErrorAnswer {
  return { status, headers, body: { error } };
}

/** A client's own text for use in a message, quoted and cut short. */
export function quote(text: string): string {
  const isLong = text.length > ERROR_ECHO_CHARS_MAX;
  return JSON.stringify(isLong ? `${text.slice(0, ERROR_ECHO_CHARS_MAX)}...` : text);
}

/** What a client sent, in a few words: "nothing", `"a string"`, "an array of 3". */
export function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "string") return quote(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return typeof value === "number" || typeof value === "boolean" || value === null ? `${value}` : "an object";
}
