// The engine's thread: owns the device and the step loop; talks to `worker-client.ts` in the messages of `protocol.ts`.
import { EngineCore } from "./core.ts";
import { STARVATION_STEPS_MAX } from "../limits.ts";
import { GrammarPool } from "./grammar/grammar-pool.ts";
import { KvManager } from "./kv-cache/kv-manager.ts";
import { Scheduler } from "./scheduler/scheduler.ts";
import { startRuntimeTimer } from "./timer.ts";
import { openTrace, type TraceWriter } from "./trace.ts";
import { type EngineOptions, loadEngine, type LoadedEngine } from "./load-engine.ts";
import { errorMessage, type FromEngine, type ToEngine } from "./protocol.ts";

let engine: LoadedEngine | undefined;
let core: EngineCore | undefined;
let grammars: GrammarPool | undefined;
let trace: TraceWriter | undefined;

function post(message: FromEngine): void {
  postMessage(message);
}

async function load(options: EngineOptions): Promise<void> {
  engine = await loadEngine(options, (progress) => post({ type: "progress", ...progress }));
  const { gpu, config, runner, maxModelLen, policy } = engine;
  const { kv, scheduler } = schedulerFor(engine, options);
  trace = options.traceFile === null ? undefined : openTrace(options.traceFile, { warn });
  const { eosTokenIds, vocabSize } = config;
  const clock = () => performance.timeOrigin + performance.now();
  grammars = new GrammarPool({
    vocabSize,
    stopIds: eosTokenIds,
    createWorker: matcherWorker,
    startTimer: startRuntimeTimer,
  });
  core = new EngineCore({ runner, scheduler, kv, clock, eosTokenIds, vocabSize, grammars, trace });
  const { nonCausal: isPrefixLm } = policy;
  post({
    type: "ready",
    info: { adapter: gpu.describe(), maxModelLen, isPrefixLm, maxSequences: runner.limits.sequences },
  });
}

function schedulerFor(
  { runner, policy, blocks, maxBatchedTokens, maxModelLen }: LoadedEngine,
  options: EngineOptions,
) {
  const { blockSize, modelDir, ordering } = options;
  const kv = new KvManager({
    policy,
    blockCounts: blocks.blockCounts,
    blockSize,
    model: modelDir,
    stepTokensMax: maxBatchedTokens,
  });
  const limits = {
    maxBatchedTokens,
    maxSequences: runner.limits.sequences,
    promptRowsMax: runner.limits.rows - runner.limits.sequences,
    maxModelLen,
    passCount: runner.passCount,
    starvationStepsMax: STARVATION_STEPS_MAX,
  };
  return { kv, scheduler: new Scheduler({ kv, policy, limits, ordering }) };
}

function matcherWorker(): Worker {
  return new Worker(new URL("./grammar/matcher-worker.ts", import.meta.url), { type: "module" });
}

function warn(message: string): void {
  post({ type: "progress", stage: "memory", done: 1, all: 1, note: message });
}

async function handle(message: ToEngine): Promise<void> {
  switch (message.type) {
    case "load":
      return load(message.options);
    case "submit": {
      const { id } = message.request;
      const fail = (error: unknown) => {
        // A step that fails fails them all, and each is told that it is the engine that is gone.
        if (core?.hasFailed) post({ type: "dead", error: errorMessage(engine?.gpu.failure ?? error) });
        else post({ type: "failed", id, error: errorMessage(error) });
      };
      try {
        core?.submit(message.request, { emit: (event) => post({ ...event, id }), fail });
      } catch (error) {
        fail(error);
      }
      return;
    }
    case "vocabulary":
      grammars?.useVocabulary(message.vocabulary);
      return;
    case "cancel":
      core?.cancel(message.id, message.choice);
      return;
    case "pause":
      core?.pause(message.id);
      return;
    case "resume":
      core?.resume(message.id);
      return;
    case "profile":
      post({ type: "profile", rows: (await engine?.profiler?.report()) ?? [] });
      return;
    case "stats": {
      const kernels = (await engine?.profiler?.report()) ?? null;
      // A closed engine is asked no more.
      if (core) post({ type: "stats", stats: { ...core.stats(), kernels } });
      return;
    }
    case "close":
      // Bun crashes when a thread ends in which Dawn still owes the result of a step.
      await core?.close();
      core = undefined;
      grammars?.close();
      trace?.close();
      engine?.gpu.close();
      // Dawn has this left to tell, and must not find the thread ended.
      await engine?.gpu.device.lost;
      post({ type: "closed" });
  }
}

globalThis.addEventListener("message", (event: MessageEvent<ToEngine>) => {
  handle(event.data).catch((error: unknown) => post({ type: "dead", error: errorMessage(error) }));
});
