/** Starts the engine for a command, with progress, and prints its kernel times when asked for. */
import type { EngineOptions } from "../engine/load-engine.ts";
import { WorkerEngineClient } from "../engine/worker-client.ts";
import type { KernelProfile } from "../gpu/profile.ts";
import type { Environment } from "./environment.ts";
import { loadProgress } from "./progress.ts";

export async function startEngine(
  engine: EngineOptions,
  modelName: string,
  environment: Environment,
): Promise<WorkerEngineClient> {
  const { onProgress, end } = loadProgress(environment);
  const created = Math.floor(environment.clock() / 1000);
  try {
    return await WorkerEngineClient.start({ engine, modelName, created, onProgress });
  } finally {
    end();
  }
}

/** Prints the totals of `--profile`, if it was given, and ends the engine. */
export async function stopEngine(client: WorkerEngineClient, isProfiled: boolean, environment: Environment) {
  if (isProfiled && client.healthy) environment.report(profileTable(await client.profile()));
  await client.close();
}

export function profileTable(rows: readonly KernelProfile[]): string {
  const lines = rows.map(({ kernel, calls, milliseconds, gigabytesPerSecond, teraflopsPerSecond }) =>
    [
      kernel.padEnd(26),
      String(calls).padStart(7),
      milliseconds.toFixed(2).padStart(10),
      ((1000 * milliseconds) / calls).toFixed(1).padStart(9),
      gigabytesPerSecond.toFixed(1).padStart(8),
      teraflopsPerSecond.toFixed(3).padStart(8),
    ].join(" "),
  );
  return ["kernel                       calls   total ms   us/call     GB/s  TFLOP/s", ...lines].join("\n");
}
