/** What the engine counts for `EngineStats`, beside what scheduler and KV cache know of themselves. */
import { QueueTimes } from "./queue-times.ts";
import type { EngineStats } from "./stats.ts";
import { type FinishedStep, StepHistory } from "./step-history.ts";

export class Tally {
  readonly #history = new StepHistory();
  readonly #queueTimes = new QueueTimes();
  #promptTokens = 0;
  #generationTokens = 0;

  /** A request has come. */
  open(promptTokens: number, nowMs: number): RequestTally {
    let isPlanned = false;
    let hasBegun = false;
    return {
      plan: (planMs) => {
        if (!isPlanned) this.#queueTimes.add(planMs - nowMs);
        isPlanned = true;
      },
      generate: (tokens) => {
        if (!hasBegun) this.#promptTokens += promptTokens;
        hasBegun = true;
        this.#generationTokens += tokens;
      },
    };
  }

  /** A step is done. */
  step(step: FinishedStep): void {
    this.#history.add(step);
  }

  numbers(): Pick<EngineStats, "promptTokens" | "generationTokens" | "queueTimes" | "recentSteps"> {
    return {
      promptTokens: this.#promptTokens,
      generationTokens: this.#generationTokens,
      queueTimes: this.#queueTimes.histogram(),
      recentSteps: this.#history.records(),
    };
  }
}

/** Told of a request's steps when they are planned, and of its tokens when they come. */
export interface RequestTally {
  plan(nowMs: number): void;
  generate(tokens: number): void;
}
