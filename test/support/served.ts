/**
 * The real engine for end-to-end tests: on the bundled software adapter unless `PRELUDE_GPU` says otherwise, with
 * float32 keys and values, so that answers are those of the references. Alone, or behind a socket for OpenAI's client.
 */
import OpenAI from "openai";
import type { Environment } from "../../src/commands/environment.ts";
import type { GenerationEvent, GenerationRequest, SamplingParams } from "../../src/engine/client.ts";
import { defaultEngineOptions, type EngineOptions } from "../../src/engine/load-engine.ts";
import { WorkerEngineClient } from "../../src/engine/worker-client.ts";
import { type AppOptions, createApp } from "../../src/routes/app.ts";
import { listen } from "../../src/routes/server.ts";
import type { LogEntry } from "../../src/routes/services.ts";
import { project } from "./shared.ts";

/** The embedded model. */
export const tinyModel = project("models/hrm-text-tiny");
export const tinyName = "hrm-text-tiny";

export const testAdapter = (process.env.PRELUDE_GPU ?? "software") as EngineOptions["gpu"];

export function engineOptions(modelDir: string, changes: Partial<EngineOptions> = {}): EngineOptions {
  return { ...defaultEngineOptions, modelDir, gpu: testAdapter, kvDtype: "f32", ...changes };
}

export function startEngine(
  modelDir: string,
  changes: Partial<EngineOptions> = {},
): Promise<WorkerEngineClient> {
  return WorkerEngineClient.start({
    engine: engineOptions(modelDir, changes),
    modelName: tinyName,
    created: 1_700_000_000,
  });
}

export const greedy: SamplingParams = {
  maxTokens: 100,
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0n,
  stop: [],
};

export interface Generated {
  text: string;
  tokenIds: number[];
  finish: Extract<GenerationEvent, { type: "finish" }>;
}

/** All of a generation behind what is told of its prompt; it must end with exactly one `finish`. */
export async function generate(engine: WorkerEngineClient, request: GenerationRequest): Promise<Generated> {
  const [, ...events] = await Array.fromAsync(engine.submit(request));
  const texts = events.filter((event) => event.type === "text");
  const finish = events.at(-1);
  if (finish?.type !== "finish" || texts.length !== events.length - 1) {
    throw new Error(`expected texts and then one finish, got ${JSON.stringify(events)}`);
  }
  return {
    text: texts.map((event) => event.text).join(""),
    tokenIds: texts.flatMap((event) => event.tokenIds),
    finish,
  };
}

export interface Served {
  engine: WorkerEngineClient;
  url: string;
  openai: OpenAI;
  log: LogEntry[];
  close: () => Promise<void>;
}

/** The embedded model behind the HTTP API on a free port. */
export async function serveTinyModel(
  changes: Partial<EngineOptions> = {},
  appChanges: Partial<AppOptions> = {},
): Promise<Served> {
  const engine = await startEngine(tinyModel, changes);
  const log: LogEntry[] = [];
  let idCount = 0;
  const app = createApp({
    engine,
    clock: () => 1_700_000_000_000,
    newId: () => String(++idCount),
    randomSeed: () => BigInt(idCount),
    log: (entry) => void log.push(entry),
    ...appChanges,
  });
  const server = await listen(app, { host: "127.0.0.1", port: 0 });
  const { url } = server;
  const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
  const close = async () => {
    await server.close();
    await engine.close();
  };
  return { engine, url, openai, log, close };
}

/** A command's world: what it prints is kept, its clock counts, nobody stops it. */
export function quietEnvironment(): { environment: Environment; output: () => string; reports: string[] } {
  const written: string[] = [];
  const reports: string[] = [];
  let now = 0;
  const environment: Environment = {
    clock: () => ++now,
    sleep: () => Promise.resolve(),
    newId: () => "id",
    randomSeed: () => 0n,
    write: (text) => void written.push(text),
    report: (line) => void reports.push(line),
    isInteractive: false,
    onStop: () => {},
  };
  return { environment, output: () => written.join(""), reports };
}
