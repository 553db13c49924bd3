/** A scheduler, a KV manager and a step loop of their own over a loaded runner, and requests of random ids to run. */
import type { GenerationRequest } from "../../engine/client.ts";
import { EngineCore } from "../../engine/core.ts";
import { KvManager } from "../../engine/kv-cache/kv-manager.ts";
import type { LoadedEngine } from "../../engine/load-engine.ts";
import { Scheduler } from "../../engine/scheduler/scheduler.ts";
import { STARVATION_STEPS_MAX } from "../../limits.ts";

/** When a request was submitted and when each of its ids became known, in milliseconds. */
export interface Track {
  submitMs: number;
  times: number[];
}

export interface Shape {
  /** Tokens of the prompt. */
  tokens: number;
  /** Ids to generate. */
  outputs: number;
}

export class Harness {
  readonly #core: EngineCore;
  readonly #clock: () => number;
  readonly #vocabSize: number;
  #count = 0;

  /** Budgets differ between cases, the runner stays. */
  constructor(loaded: LoadedEngine, options: { maxBatchedTokens: number; clock: () => number }) {
    const { runner, policy, blocks, maxModelLen, config } = loaded;
    const { maxBatchedTokens, clock } = options;
    const { blockSize, sequences } = runner.limits;
    const kv = new KvManager({ policy, blockCounts: blocks.blockCounts, blockSize, model: "bench" });
    const limits = {
      maxBatchedTokens,
      maxSequences: sequences,
      maxModelLen,
      passCount: runner.passCount,
      starvationStepsMax: STARVATION_STEPS_MAX,
    };
    const scheduler = new Scheduler({ kv, policy, limits, ordering: "fcfs" });
    const { vocabSize } = config;
    this.#core = new EngineCore({ runner, scheduler, kv, clock, vocabSize, eosTokenIds: [] });
    this.#clock = clock;
    this.#vocabSize = vocabSize;
  }

  /** Submits a request of ids that no other one has; resolves when it has finished, rejects when it fails. */
  run({ tokens, outputs }: Shape): { track: Track; done: Promise<Track> } {
    const index = this.#count++;
    const promptIds = Array.from(
      { length: tokens },
      (_, i) => (index * 7919 + i * 104_729) % this.#vocabSize,
    );
    const sampling = { maxTokens: outputs, temperature: 0, topP: 1, topK: 0, minP: 0, seed: 0n, stop: [] };
    const request: GenerationRequest = { id: `bench-${index}`, promptIds, sampling };
    const track: Track = { submitMs: this.#clock(), times: [] };
    const done = new Promise<Track>((resolve, reject) => {
      this.#core.submit(request, {
        emit: (event) => {
          if (event.type === "finish") resolve(track);
          else if (event.type === "tokens") track.times.push(...event.ids.map(() => this.#clock()));
        },
        fail: reject,
      });
    });
    return { track, done };
  }

  close(): Promise<void> {
    return this.#core.close();
  }
}

/** Milliseconds between an answer's ids. */
export function gaps({ times }: Track): number[] {
  return times.slice(1).map((time, index) => time - times[index]);
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
