/** `prelude serve`: the engine behind the HTTP API, from the first moment until the process is asked to stop. */
import type { EngineOptions } from "../engine/load-engine.ts";
import { SERVER_FINISH_MS_MAX } from "../limits.ts";
import type { AccessOptions } from "../routes/access.ts";
import { createApp } from "../routes/app.ts";
import { ServerLife } from "../routes/life.ts";
import type { About } from "../routes/operations.ts";
import { listen, type Server } from "../routes/server.ts";
import type { ChatSettings } from "../routes/services.ts";
import type { Environment } from "./environment.ts";
import { type LogOptions, serverLog } from "./server-log.ts";
import { startEngine, stopEngine } from "./start-engine.ts";

export interface ServeOptions {
  engine: EngineOptions;
  modelName: string;
  host: string;
  port: number;
  chat: ChatSettings;
  access: AccessOptions;
  about: About;
  log: LogOptions;
  logsPrompts: boolean;
  /** How long requests under way may take to finish once the process is asked to stop. */
  drainMs: number;
}

/**
 * Resolves after an orderly stop. Throws `SetupError` when the address or the device cannot be had.
 * The port is taken before the model is loaded, so that whoever asks is told to wait.
 */
export async function serve(options: ServeOptions, outside: Environment): Promise<void> {
  const log = serverLog(options.log, outside);
  const environment = toLog(outside, options.log, log.notice);
  const stopped = new Promise<null>((resolve) => environment.onStop(() => resolve(null)));
  const life = new ServerLife();
  const app = createApp({ ...options, ...environment, engine: life, log: log.entry });
  const server = await listen(app, options);
  try {
    const client = await Promise.race([startEngine(options.engine, options.modelName, environment), stopped]);
    if (client) {
      life.begin(client);
      log.notice(greeting(options, server.url));
      await stopped;
    }
    log.notice("Stopping");
    await drain(life, options.drainMs, environment);
    // One that is loading still ends with the process.
    if (client) await stopEngine(client, options.engine.profile, environment);
  } finally {
    await end(server, environment);
  }
}

/** With JSON lines, what commands report to people is such a line too. */
function toLog(environment: Environment, { format }: LogOptions, report: Environment["report"]): Environment {
  return format === "json" ? { ...environment, report, isInteractive: false } : environment;
}

/** Lets requests finish; those that have not after `drainMs` end with an error. */
async function drain(life: ServerLife, drainMs: number, environment: Environment): Promise<void> {
  const drained = life.drain();
  await orTimeout(drained, drainMs, environment);
  life.cut();
  await orTimeout(drained, SERVER_FINISH_MS_MAX, environment);
}

async function end(server: Server, environment: Environment): Promise<void> {
  await orTimeout(server.finish(), SERVER_FINISH_MS_MAX, environment);
  await server.close();
}

async function orTimeout(work: Promise<void>, delayMs: number, { sleep }: Environment): Promise<void> {
  const done = new AbortController();
  await Promise.race([work, sleep(delayMs, done.signal)]);
  done.abort();
}

function greeting({ modelName, access }: ServeOptions, url: string): string {
  const body = JSON.stringify({
    messages: [{ role: "user", content: "Translate to French: Where is the station?" }],
  });
  const key = access.apiKeys.length > 0 ? ` -H "authorization: Bearer $PRELUDE_API_KEY"` : "";
  const curl = `curl ${url}/v1/chat/completions -H 'content-type: application/json'${key} -d '${body}'`;
  return `Prelude serves ${modelName} at ${url}\nTry: ${curl}`;
}
