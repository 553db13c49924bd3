/** `prelude generate`: one prompt, its answer streamed to the terminal. */
import type { GenerationRequest } from "../engine/client.ts";
import type { EngineOptions } from "../engine/load-engine.ts";
import type { WorkerEngineClient } from "../engine/worker-client.ts";
import type { Environment } from "./environment.ts";
import { startEngine, stopEngine } from "./start-engine.ts";

export interface GenerateOptions {
  engine: EngineOptions;
  modelName: string;
  prompt: string;
  raw?: boolean;
  maxTokens: number;
  temperature?: number;
  seed?: number;
  json?: boolean;
}

export async function generate(options: GenerateOptions, environment: Environment): Promise<void> {
  const client = await startEngine(options.engine, options.modelName, environment);
  const stop = new AbortController();
  environment.onStop(() => stop.abort());
  try {
    const request = toRequest(options, client, environment);
    await print(client, { request, signal: stop.signal, json: options.json ?? false }, environment);
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  } finally {
    await stopEngine(client, options.engine.profile, environment);
  }
}

function toRequest(
  options: GenerateOptions,
  client: WorkerEngineClient,
  environment: Environment,
): GenerationRequest {
  const { prompt, raw, maxTokens, temperature, seed } = options;
  const { text, model } = client;
  return {
    id: environment.newId(),
    promptIds: raw ? text.encodePrompt(prompt) : text.encodeChat([{ role: "user", content: prompt }]),
    sampling: {
      ...model.defaultSampling,
      ...(temperature === undefined ? {} : { temperature }),
      maxTokens,
      seed: seed === undefined ? environment.randomSeed() : BigInt(seed),
      stop: [],
    },
  };
}

interface PrintOptions {
  request: GenerationRequest;
  signal: AbortSignal;
  json: boolean;
}

async function print(
  client: WorkerEngineClient,
  options: PrintOptions,
  environment: Environment,
): Promise<void> {
  const { request, signal, json } = options;
  const tokenIds: number[] = [];
  let text = "";
  for await (const event of client.submit(request, signal)) {
    if (event.type === "text") {
      text += event.text;
      tokenIds.push(...event.tokenIds);
      if (!json) environment.write(event.text);
      continue;
    }
    if (event.type === "prompt") continue;
    if (!json) environment.write("\n");
    else {
      const {
        reason: finish_reason,
        promptTokens: prompt_tokens,
        completionTokens: completion_tokens,
      } = event;
      const usage = { prompt_tokens, completion_tokens };
      environment.write(`${JSON.stringify({ text, token_ids: tokenIds, finish_reason, usage })}\n`);
    }
  }
}
