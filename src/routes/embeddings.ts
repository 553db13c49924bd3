/** `POST /v1/embeddings`: texts as vectors, each the mean of the model's final states, made one long. */
import { Buffer } from "node:buffer";
import type { Context } from "hono";
import { z } from "zod";
import type { EngineClient, GenerationRequest, ModelCard, SamplingParams } from "../engine/client.ts";
import { ContextLengthError } from "../engine/errors.ts";
import { CACHE_SALT_CHARS_MAX, EMBEDDING_INPUTS_MAX, EMBEDDINGS_AT_ONCE_MAX } from "../limits.ts";
import { readJson } from "./body.ts";
import { truncated } from "./generation-request.ts";
import { checkModel, commonParameters } from "./parameters.ts";
import { rawPrompts, toIds } from "./prompts.ts";
import type { AppEnv, Services } from "./services.ts";
import { checkIds } from "./token-parameters.ts";
import { boolean, integerFrom, object, refusal, stringUpTo, validate } from "./validation.ts";

const { model, priority, truncate_prompt_tokens, user } = commonParameters;
export const embeddingParameters = object({
  input: rawPrompts(EMBEDDING_INPUTS_MAX),
  encoding_format: z.enum(["float", "base64"], { error: '"float" or "base64"' }).optional(),
  dimensions: integerFrom(1).optional(),
  add_special_tokens: boolean.optional(),
  cache_salt: stringUpTo(CACHE_SALT_CHARS_MAX).optional(),
  ...{ model, priority, truncate_prompt_tokens, user },
});

type EmbeddingParameters = z.output<typeof embeddingParameters>;

/** The engine's answers have a token at least; nobody reads it. */
const reading: SamplingParams = {
  maxTokens: 1,
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0n,
  stop: [],
  ignoreEos: true,
};

export function embeddings(services: Services): (c: Context<AppEnv>) => Promise<Response> {
  return async (c) => {
    const { engine, clock, newId } = services;
    const asked = validate(embeddingParameters, await readJson(c.req.raw, services.startTimer));
    checkAsked(asked, engine.model);
    const id = `embd-${newId()}`;
    const requests = toRequests(asked, engine, id);
    const means = await meanStates(engine, requests, c.req.raw.signal);
    const { dimensions, encoding_format: format = "float" } = asked;
    const data = means.map((mean, index) => {
      const vector = unit(mean.subarray(0, dimensions));
      return { object: "embedding", index, embedding: format === "float" ? [...vector] : toBase64(vector) };
    });
    const tokens = requests.reduce((sum, { promptIds }) => sum + promptIds.length, 0);
    const usage = { prompt_tokens: tokens, total_tokens: tokens };
    const created = Math.floor(clock() / 1000);
    return c.json({ id, object: "list", created, model: engine.model.id, data, usage });
  };
}

function checkAsked({ model: name, dimensions }: EmbeddingParameters, card: ModelCard): void {
  if (name !== undefined) checkModel(name, card);
  if (dimensions === undefined || dimensions <= card.hiddenSize) return;
  throw refusal("dimensions", `expected at most the ${card.hiddenSize} of the model, got ${dimensions}`);
}

/** Everything wrong with any input is found before one is queued. */
function toRequests(asked: EmbeddingParameters, engine: EngineClient, id: string): GenerationRequest[] {
  const { input: inputs, add_special_tokens: addSpecialTokens, priority, cache_salt: cacheSalt } = asked;
  return inputs.map((input, index) => {
    const ids = truncated(toIds(input, engine, { addSpecialTokens }), asked, engine.model);
    checkInput(ids, engine.model);
    const request = { id: `${id}-${index}`, promptIds: ids, sampling: reading, priority, cacheSalt };
    return { ...request, wantsMeanState: true };
  });
}

function checkInput(ids: readonly number[], card: ModelCard): void {
  if (ids.length === 0) throw refusal("input", "expected at least one token, got none");
  checkIds("input", ids, card);
  if (ids.length < card.maxModelLen) return;
  const most = card.maxModelLen - 1;
  throw new ContextLengthError(
    `Cannot accept input: expected at most ${most} tokens, got ${ids.length}`,
    "input",
  );
}

/** In order, some at a time; one that fails ends all. */
async function meanStates(
  engine: EngineClient,
  requests: readonly GenerationRequest[],
  signal: AbortSignal,
): Promise<Float32Array[]> {
  const ended = new AbortController();
  const either = AbortSignal.any([signal, ended.signal]);
  const means: Float32Array[] = [];
  const rest = requests.entries();
  const work = async () => {
    for (const [index, request] of rest) means[index] = await meanState(engine, request, either);
  };
  try {
    await Promise.all(Array.from({ length: EMBEDDINGS_AT_ONCE_MAX }, work));
    return means;
  } finally {
    ended.abort();
  }
}

async function meanState(
  engine: EngineClient,
  request: GenerationRequest,
  signal: AbortSignal,
): Promise<Float32Array> {
  let mean: Float32Array | undefined;
  for await (const event of engine.submit(request, signal)) {
    if (event.type === "prompt") mean = event.meanState;
  }
  if (!mean) throw new Error(`Cannot embed request ${request.id}: expected a mean state, got none`);
  return mean;
}

/** The direction alone; of a vector without one, the vector itself. */
function unit(vector: Float32Array): Float32Array {
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  return length === 0 ? vector : vector.map((value) => value / length);
}

/** float32, the lowest byte first, whatever this machine's own order. */
function toBase64(vector: Float32Array): string {
  const view = new DataView(new ArrayBuffer(4 * vector.length));
  vector.forEach((value, index) => view.setFloat32(4 * index, value, true));
  return Buffer.from(view.buffer).toString("base64");
}
