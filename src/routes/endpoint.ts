/** What `/v1/completions` and `/v1/chat/completions` have in common: all but the prompt and the shape of the answer. */
import type { Context } from "hono";
import type { z } from "zod";
import type { AnswerHead, StreamHead } from "./answer.ts";
import { readJson } from "./body.ts";
import { isServerFailure } from "./errors.ts";
import { checkCommon, type CommonParameters } from "./parameters.ts";
import { setRequestId } from "./request-id.ts";
import type { AppEnv, Services } from "./services.ts";
import { dataEvents, sseBody, type SseFormat } from "./sse.ts";
import { validate } from "./validation.ts";

export interface Endpoint<Parameters extends CommonParameters> {
  parameters: z.ZodType<Parameters>;
  /** Begins the id of every answer, and says its kind: "chatcmpl-", "cmpl-". */
  idPrefix: string;
  /** Resolves once the answers have begun. A bad request rejects before anything is queued. */
  start(parameters: Parameters, options: StartOptions): Promise<StartedAnswers>;
}

export interface StartOptions {
  services: Services;
  id: string;
  /** Seconds since the epoch. */
  created: number;
  requestId: string;
  /** Aborted when the client leaves. */
  signal: AbortSignal;
}

/** Answers that are under way, to be taken in one of two shapes. */
export interface StartedAnswers {
  whole(head: AnswerHead): Promise<object>;
  chunks(head: StreamHead): AsyncIterable<object>;
  /** `dataEvents` by default. */
  format?: SseFormat;
}

/** The handler of an endpoint. */
export function answerWith<Parameters extends CommonParameters>(
  endpoint: Endpoint<Parameters>,
  services: Services,
): (c: Context<AppEnv>) => Promise<Response> {
  return async (c) => {
    const { model } = services.engine;
    const parameters = validate(endpoint.parameters, await readJson(c.req.raw, services.startTimer));
    checkCommon(parameters, model);
    const id = `${endpoint.idPrefix}${services.newId()}`;
    const name = nameOf(c, endpoint.idPrefix, parameters.request_id);
    const gone = new AbortController();
    const signal = AbortSignal.any([c.req.raw.signal, gone.signal]);
    const created = Math.floor(services.clock() / 1000);
    const head: AnswerHead = { id: name ?? id, created, model: model.id };
    const answers = await endpoint.start(parameters, {
      services,
      id,
      created,
      requestId: c.get("requestId"),
      signal,
    });
    if (!parameters.stream) return c.json(await answers.whole(head));
    const { include_usage: includeUsage = false, continuous_usage_stats: continuousUsage = false } =
      parameters.stream_options ?? {};
    const { format = dataEvents } = answers;
    return stream(c, answers.chunks({ ...head, includeUsage, continuousUsage }), { services, gone, format });
  };
}

/** The answer's id if the client has a say in it. The engine's own ids are never a client's: they must differ. */
function nameOf(c: Context<AppEnv>, prefix: string, requestId: string | undefined): string | null {
  if (requestId === undefined) return null;
  setRequestId(c, requestId);
  return `${prefix}${requestId}`;
}

interface StreamOptions {
  services: Services;
  /** Aborted when the connection closes: not every runtime's request signal outlives the handler. */
  gone: AbortController;
  format: SseFormat;
}

/** Sends the objects as events for as long as the client stays. */
export function stream(
  c: Context<AppEnv>,
  chunks: AsyncIterable<object>,
  { services, gone, format }: StreamOptions,
): Response {
  const requestId = c.get("requestId");
  const body = sseBody(chunks, {
    format,
    startTimer: services.startTimer,
    onCancel: () => gone.abort(),
    onError: (error) => {
      // Whatever follows from the client's own leaving is no failure.
      const isGone = c.req.raw.signal.aborted || gone.signal.aborted;
      if (!isGone && isServerFailure(error)) services.log({ type: "error", requestId, error });
    },
  });
  return c.body(body, 200, {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    // Else nginx collects the events before it passes them on.
    "x-accel-buffering": "no",
  });
}
