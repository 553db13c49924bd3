/** What `/v1/completions` and `/v1/chat/completions` have in common, which is all but the prompt and the shape. */
import type { Context } from "hono";
import type { z } from "zod";
import type { EngineClient, GenerationRequest } from "../engine/client.ts";
import { InvalidRequestError } from "../engine/errors.ts";
import { type AnswerHead, type AnswerShape, answerChunks, wholeAnswer } from "./answer.ts";
import { readJson } from "./body.ts";
import { isServerFailure } from "./errors.ts";
import { collect, startGeneration } from "./generation.ts";
import { checkCommon, type CommonParameters } from "./parameters.ts";
import { toSampling } from "./sampling.ts";
import type { AppEnv, Services } from "./services.ts";
import { sseBody } from "./sse.ts";
import { validate } from "./validation.ts";

export interface Prompt {
  promptIds: readonly number[];
  prefixLength?: number;
}

export interface Endpoint<Parameters extends CommonParameters> {
  parameters: z.ZodType<Parameters>;
  /** Begins the id of every answer, and is the OpenAI name of its kind: "chatcmpl", "cmpl". */
  idPrefix: string;
  /** For a request that does not say; `Infinity` is the rest of the context. */
  maxTokensDefault: number;
  toPrompt(parameters: Parameters, engine: EngineClient): Prompt;
  /** How many likely tokens to list beside each chosen one; undefined for no log-probabilities. */
  toTopLogprobs(parameters: Parameters): number | undefined;
  shape: AnswerShape;
}

/** The handler of an endpoint. A bad request throws before anything is queued. */
export function answerWith<Parameters extends CommonParameters>(
  endpoint: Endpoint<Parameters>,
  services: Services,
): (c: Context<AppEnv>) => Promise<Response> {
  return async (c) => {
    const { engine } = services;
    const parameters = validate(endpoint.parameters, await readJson(c.req.raw));
    checkCommon(parameters, engine.model);
    const request = toRequest(endpoint, parameters, services);

    const gone = new AbortController();
    const signal = AbortSignal.any([c.req.raw.signal, gone.signal]);
    const created = Math.floor(services.clock() / 1000);
    const head: AnswerHead = { id: request.id, created, model: engine.model.id };
    const generation = await startGeneration(engine, request, signal);
    if (!parameters.stream) return c.json(wholeAnswer(endpoint.shape, head, await collect(generation)));

    const includeUsage = parameters.stream_options?.include_usage ?? false;
    const chunks = answerChunks(endpoint.shape, { ...head, includeUsage }, generation);
    return stream(c, chunks, { services, gone });
  };
}

function toRequest<Parameters extends CommonParameters>(
  endpoint: Endpoint<Parameters>,
  parameters: Parameters,
  { engine, newId, randomSeed }: Services,
): GenerationRequest {
  const prompt = endpoint.toPrompt(parameters, engine);
  const promptTokens = prompt.promptIds.length;
  if (promptTokens === 0) {
    throw new InvalidRequestError("Cannot accept prompt: expected at least one token, got none", "prompt");
  }
  const sampling = toSampling(parameters, {
    engine,
    maxTokensDefault: endpoint.maxTokensDefault,
    randomSeed,
    promptTokens,
    topLogprobs: endpoint.toTopLogprobs(parameters),
  });
  const { priority = 0, cache_salt: cacheSalt } = parameters;
  return { id: `${endpoint.idPrefix}-${newId()}`, ...prompt, sampling, priority, cacheSalt };
}

interface StreamOptions {
  services: Services;
  /** Aborted when the connection closes: not every runtime's request signal outlives the handler. */
  gone: AbortController;
}

function stream(
  c: Context<AppEnv>,
  chunks: AsyncIterable<object>,
  { services, gone }: StreamOptions,
): Response {
  const requestId = c.get("requestId");
  const body = sseBody(chunks, {
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
