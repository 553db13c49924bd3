// The engine's thread: owns the device and the step loop; talks to `worker-client.ts` in the messages of `protocol.ts`.
import { EngineCore } from "./core.ts";
import { type EngineOptions, loadEngine, type LoadedEngine } from "./load-engine.ts";
import { errorMessage, type FromEngine, type ToEngine } from "./protocol.ts";

let engine: LoadedEngine | undefined;
let core: EngineCore | undefined;

function post(message: FromEngine): void {
  postMessage(message);
}

async function load(options: EngineOptions): Promise<void> {
  engine = await loadEngine(options, (progress) => post({ type: "progress", ...progress }));
  const { gpu, config, runner, maxModelLen, isPrefixLm } = engine;
  const blockCount = runner.limits.blocksPerSequence * runner.limits.sequences;
  core = new EngineCore({ runner, blockCount, isPrefixLm, eosTokenIds: config.eosTokenIds });
  post({ type: "ready", info: { adapter: gpu.describe(), maxModelLen, isPrefixLm } });
}

async function handle(message: ToEngine): Promise<void> {
  switch (message.type) {
    case "load":
      return load(message.options);
    case "submit": {
      const { id } = message.request;
      core?.submit(
        message.request,
        (event) => post({ ...event, id }),
        (error) => {
          // A lost device fails them all, and each is told that it is the engine that is gone.
          if (engine?.gpu.failure) post({ type: "dead", error: errorMessage(engine.gpu.failure) });
          else post({ type: "failed", id, error: errorMessage(error) });
        },
      );
      return;
    }
    case "cancel":
      core?.cancel(message.id);
      return;
    case "profile":
      post({ type: "profile", rows: (await engine?.profiler?.report()) ?? [] });
      return;
    case "close":
      // Bun crashes when a thread ends in which Dawn still owes the result of a step.
      await core?.close();
      core = undefined;
      engine?.gpu.close();
      post({ type: "closed" });
  }
}

globalThis.addEventListener("message", (event: MessageEvent<ToEngine>) => {
  handle(event.data).catch((error: unknown) => post({ type: "dead", error: errorMessage(error) }));
});
