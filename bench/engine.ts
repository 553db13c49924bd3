/**
 * Engine benchmark on random weights of a real geometry: decoding, prefill, and how long a long prompt holds up others.
 *
 *   bun bench/engine.ts [--model bench/geometries/hrm-text-1b] [--gpu auto] [--batches 1,8] [--prompt 1024]
 *                       [--budget 256] [--only decode,prefill,stall] [--json] [--record]
 *
 * Ratios within a run are what counts; `--record` appends its lines to bench/history.ndjson.
 */
import { appendFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { GenerationRequest } from "../src/engine/client.ts";
import { EngineCore } from "../src/engine/core.ts";
import { KvManager } from "../src/engine/kv-cache/kv-manager.ts";
import { defaultEngineOptions, loadEngine, type LoadedEngine } from "../src/engine/load-engine.ts";
import { Scheduler } from "../src/engine/scheduler/scheduler.ts";
import { type GpuChoice, gpuChoices } from "../src/gpu/device/open-device.ts";
import { commit } from "./commit.ts";

interface Settings {
  model: string;
  gpu: GpuChoice;
  batches: number[];
  prompt: number;
  budget: number;
  only: string[];
  json: boolean;
  record: boolean;
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      model: { type: "string", default: fileURLToPath(new URL("geometries/hrm-text-1b", import.meta.url)) },
      gpu: { type: "string", default: "auto" },
      batches: { type: "string", default: "1,8" },
      prompt: { type: "string", default: "1024" },
      budget: { type: "string", default: "256" },
      only: { type: "string", default: "decode,prefill,stall" },
      json: { type: "boolean", default: false },
      record: { type: "boolean", default: false },
    },
  });
  const gpu = gpuChoices.find((choice) => choice === values.gpu);
  if (!gpu) throw new Error(`Cannot use --gpu ${values.gpu}: expected one of ${gpuChoices.join(", ")}`);
  const batches = values.batches.split(",").map(Number);
  const [prompt, budget] = [Number(values.prompt), Number(values.budget)];
  return { ...values, gpu, batches, prompt, budget, only: values.only.split(",") };
}

/** Times at which each request's ids became known, in milliseconds, and when it was submitted. */
interface Track {
  submitMs: number;
  times: number[];
}

/** An engine of its own scheduler and cache over the loaded runner: budgets differ between measurements. */
function engineOf(loaded: LoadedEngine, maxBatchedTokens: number) {
  const { runner, policy, blocks, maxModelLen, config } = loaded;
  const { blockSize, sequences } = runner.limits;
  // Prompts differ by their ids, so no measurement finds another's prefix.
  const kv = new KvManager({
    policy,
    blockCounts: blocks.blockCounts,
    blockSize,
    model: String(maxBatchedTokens),
  });
  const limits = {
    maxBatchedTokens,
    maxSequences: sequences,
    maxModelLen,
    passCount: runner.passCount,
    starvationStepsMax: 16,
  };
  const scheduler = new Scheduler({ kv, policy, limits, ordering: "fcfs" });
  const clock = () => performance.now();
  const core = new EngineCore({ runner, scheduler, kv, clock, vocabSize: config.vocabSize, eosTokenIds: [] });
  return { core, scheduler };
}

let requests = 0;

/** Runs a request of random ids; resolves when it has finished. */
function run(
  core: EngineCore,
  { vocabSize, tokens, outputs }: { vocabSize: number; tokens: number; outputs: number },
) {
  const id = `r${requests++}`;
  const promptIds = Array.from({ length: tokens }, (_, i) => (requests * 7919 + i * 104_729) % vocabSize);
  const sampling = { maxTokens: outputs, temperature: 0, topP: 1, topK: 0, minP: 0, seed: 0n, stop: [] };
  const request: GenerationRequest = { id, promptIds, sampling };
  const track: Track = { submitMs: performance.now(), times: [] };
  const done = new Promise<Track>((resolve, reject) => {
    core.submit(request, {
      emit: (event) => {
        if (event.type === "tokens") track.times.push(performance.now());
        else resolve(track);
      },
      fail: reject,
    });
  });
  return { track, done };
}

interface Result {
  case: string;
  value: number;
  unit: string;
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function gaps({ times }: Track): number[] {
  return times.slice(1).map((time, index) => time - times[index]);
}

async function decode(loaded: LoadedEngine, batch: number): Promise<Result> {
  const { core } = engineOf(loaded, 2048);
  const shape = { vocabSize: loaded.config.vocabSize, tokens: 96, outputs: 96 };
  const tracks = await Promise.all(Array.from({ length: batch }, () => run(core, shape).done));
  await core.close();
  const step = median(tracks.flatMap((track) => gaps(track).slice(16)));
  return {
    case: `decode, batch ${batch}, 96 to 192 of context`,
    value: (1000 * batch) / step,
    unit: "tok/s",
  };
}

async function prefill(loaded: LoadedEngine, tokens: number): Promise<Result> {
  const { core } = engineOf(loaded, loaded.maxModelLen);
  const shape = { vocabSize: loaded.config.vocabSize, tokens, outputs: 1 };
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    const {
      times: [first],
      submitMs,
    } = await run(core, shape).done;
    times.push(first - submitMs);
  }
  await core.close();
  return { case: `prefill of ${tokens}, whole`, value: median(times.slice(1)), unit: "ms to first token" };
}

/** The longest gap between tokens of eight decoding requests while a long prompt is prefilled. */
async function stall(
  loaded: LoadedEngine,
  { prompt, budget }: { prompt: number; budget: number },
): Promise<Result[]> {
  const { core } = engineOf(loaded, budget);
  const { vocabSize } = loaded.config;
  const others = Array.from({ length: 8 }, () => run(core, { vocabSize, tokens: 64, outputs: 256 }));
  while (others.some(({ track }) => track.times.length < 32))
    await new Promise((resolve) => setTimeout(resolve, 1));
  const long = run(core, { vocabSize, tokens: prompt, outputs: 2 });
  const { submitMs, times } = await long.done;
  await Promise.all(others.map(({ done }) => done));
  await core.close();
  const worst = Math.max(
    ...others.flatMap(({ track }) => gaps(track).filter((_, i) => track.times[i] > submitMs - 1)),
  );
  const name = `prompt of ${prompt} among 8 decoding, budget ${budget}`;
  return [
    { case: `${name}: longest gap of the others`, value: worst, unit: "ms" },
    { case: `${name}: its first token`, value: times[0] - submitMs, unit: "ms" },
  ];
}

async function main(): Promise<void> {
  const settings = readSettings();
  const { model, gpu, prompt, budget } = settings;
  const loaded = await loadEngine(
    {
      ...defaultEngineOptions,
      modelDir: model,
      gpu,
      loadFormat: "dummy",
      maxSequences: Math.max(16, ...settings.batches),
      maxBatchedTokens: 4096,
      prefixCaching: false,
    },
    ({ note }) => {
      if (note) console.error(note);
    },
  );
  await decode(loaded, 1); // warms the clocks
  const results: Result[] = [];
  if (settings.only.includes("decode"))
    for (const batch of settings.batches) results.push(await decode(loaded, batch));
  if (settings.only.includes("prefill")) results.push(await prefill(loaded, prompt));
  if (settings.only.includes("stall")) {
    const whole = await stall(loaded, { prompt, budget: 4096 });
    const layered = await stall(loaded, { prompt, budget });
    results.push(...whole, ...layered);
    results.push({
      case: "whole / layered: longest gap",
      value: whole[0].value / layered[0].value,
      unit: "times",
    });
  }
  report(results, { adapter: loaded.gpu.adapterName, settings });
  loaded.gpu.close();
}

function report(
  results: readonly Result[],
  { adapter, settings }: { adapter: string; settings: Settings },
): void {
  for (const result of results) {
    const line = {
      date: new Date().toISOString(),
      commit: commit(),
      adapter,
      model: settings.model.split("/").at(-1),
      ...result,
    };
    console.log(
      settings.json
        ? JSON.stringify(line)
        : `${result.case.padEnd(72)} ${result.value.toFixed(1)} ${result.unit}`,
    );
    if (settings.record)
      appendFileSync(new URL("history.ndjson", import.meta.url), `${JSON.stringify(line)}\n`);
  }
}

await main();
process.exit();
