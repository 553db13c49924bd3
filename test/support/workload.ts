/** Requests of all kinds that arrive while others run, the same ones for the same seed. */
import type { GenerationRequest } from "../../src/engine/client.ts";
import type { ScheduledRun } from "./scheduled-run.ts";
import { greedy } from "./served.ts";

/** What is asked for, by however many requests. */
export type Ask = Pick<GenerationRequest, "promptIds" | "sampling">;

export interface Arrival {
  /** Steps planned when the request comes, unless the engine runs dry before. */
  step: number;
  request: GenerationRequest;
  ask: Ask;
  /** Steps planned when it is cancelled; null for one that is not. */
  cancelStep: number | null;
}

/** Of each prompt, a greedy ask and a sampled one; every third sampled one is for two answers. */
export function asksOf(prompts: readonly (readonly number[])[], maxTokens: number): Ask[] {
  return prompts.flatMap((promptIds, index) => {
    const common = { ...greedy, ignoreEos: index % 2 === 0, maxTokens: maxTokens - (index % 3) };
    const drawn = { temperature: 1, topP: 0.95, topK: 50, seed: BigInt(index), n: index % 3 === 0 ? 2 : 1 };
    return [
      { promptIds, sampling: common },
      { promptIds, sampling: { ...common, ...drawn } },
    ];
  });
}

export interface WorkloadOptions {
  count: number;
  asks: readonly Ask[];
  /** Whole numbers in [0, limit). */
  random: (limit: number) => number;
  /** Fewer steps than this lie between two arrivals. */
  gapSteps: number;
  /** A request that is cancelled is so fewer steps than this after it has come. */
  cancelSteps: number;
}

/** Every ask as often as any other, in a drawn order; every eighth request is cancelled on its way. */
export function workload({ count, asks, random, gapSteps, cancelSteps }: WorkloadOptions): Arrival[] {
  const left = Array.from({ length: count }, (_, index) => asks[index % asks.length]);
  let step = 0;
  return Array.from({ length: count }, (_, index) => {
    const [ask] = left.splice(random(left.length), 1);
    step += random(gapSteps);
    const cancelStep = index % 8 === 3 ? step + 1 + random(cancelSteps - 1) : null;
    return { step, ask, request: { id: `request ${index}`, ...ask }, cancelStep };
  });
}

/** Runs the arrivals, which are in order of their steps, to their ends. */
export async function play(run: ScheduledRun, arrivals: readonly Arrival[]): Promise<void> {
  let next = 0;
  run.beforeStep = (planned) => {
    while (next < arrivals.length && arrivals[next].step <= planned) run.submit(arrivals[next++].request);
    for (const { cancelStep, request } of arrivals) if (cancelStep === planned) run.cancel(request.id);
  };
  while (next < arrivals.length) {
    run.submit(arrivals[next++].request);
    await run.settled();
  }
  await run.drain();
}
