import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { benchEngine } from "../../src/commands/bench-engine.ts";
import type { Environment } from "../../src/commands/environment.ts";
import { defaultEngineOptions } from "../../src/engine/load-engine.ts";
import { withTempDir } from "../support/checkpoint.ts";
import { shared } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

test("every case gives a line, and a line of JSON in the file to record", () =>
  withTempDir(async (dir) => {
    const written: string[] = [];
    const environment = {
      clock: () => performance.now(),
      write: (text: string) => written.push(text),
      report: () => {},
      isInteractive: false,
    } as unknown as Environment;
    const record = join(dir, "history.ndjson");
    await benchEngine(
      {
        engine: { ...defaultEngineOptions, modelDir: shared("reference/tiny-llama"), gpu: "software" },
        cases: {
          batches: [1, 2],
          context: 8,
          prompts: [16],
          load: { requests: 4, concurrency: 2, tokens: 8, outputs: 4 },
        },
        record,
      },
      environment,
    );
    expect(written.map((line) => line.replace(/ {2,}[\d.]+ /, " # "))).toEqual([
      "decode, batch 1, 8 of context # tok/s\n",
      "decode, batch 2, 8 of context # tok/s\n",
      "prompt of 16, to its first token # ms\n",
      "4 requests, 2 at once, 8 in, 4 out # tok/s\n",
    ]);
    const lines = readFileSync(record, "utf8").trim().split("\n");
    const results = lines.map((line) => JSON.parse(line) as { value: number; model: string; unit: string });
    expect(results.every(({ value, model }) => value > 0 && model === "tiny-llama")).toBe(true);
  }));
