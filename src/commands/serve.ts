/** `prelude serve`: the engine behind the HTTP API, until the process is asked to stop. */
import type { EngineOptions } from "../engine/load-engine.ts";
import { createApp } from "../routes/app.ts";
import { listen } from "../routes/server.ts";
import type { ChatSettings } from "../routes/services.ts";
import type { Environment } from "./environment.ts";
import { startEngine, stopEngine } from "./start-engine.ts";

export interface ServeOptions {
  engine: EngineOptions;
  modelName: string;
  host: string;
  port: number;
  chat: ChatSettings;
}

/** Resolves after an orderly stop. Throws `SetupError` when the address or the device cannot be had. */
export async function serve(
  { engine, modelName, host, port, chat }: ServeOptions,
  environment: Environment,
): Promise<void> {
  const stopped = new Promise<void>((resolve) => environment.onStop(resolve));
  const client = await startEngine(engine, modelName, environment);
  const { clock, newId, randomSeed, report } = environment;
  const app = createApp({
    engine: client,
    chat,
    clock,
    newId,
    randomSeed,
    log: (entry) => {
      if (entry.type === "error") report(`${entry.requestId}: ${describe(entry.error)}`);
    },
  });
  try {
    const server = await listen(app, { host, port });
    report(`Prelude serves ${modelName} at ${server.url}\nTry: ${curlExample(server.url)}`);
    await stopped;
    report("Stopping");
    await server.close();
  } finally {
    await stopEngine(client, engine.profile, environment);
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function curlExample(url: string): string {
  const body = JSON.stringify({
    messages: [{ role: "user", content: "Translate to French: Where is the station?" }],
  });
  return `curl ${url}/v1/chat/completions -H 'content-type: application/json' -d '${body}'`;
}
