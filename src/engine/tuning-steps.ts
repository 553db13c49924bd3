/** Steps of a model for the sake of their dispatches: what `prelude tune` measures. */
import type { Dispatch } from "../gpu/kernel.ts";
import type { EngineOptions, LoadedEngine } from "./load-engine.ts";
import type { RunnablePlan } from "./runner.ts";
import type { Rectangle } from "./step-plan.ts";

export interface TuningSteps {
  /** Tokens of a step each: of decoding sequences where so many may run at once, else of one prompt. */
  tokenCounts: readonly number[];
  /** Keys that the sequences of a decode step have behind them, all together. */
  context: number;
}

/** Most sequences of a decode step; steps of more tokens are prompts. */
const sequencesMax = 64;

/** What an engine must be loaded with for these steps, whatever it would be served with. */
export function engineForSteps(engine: EngineOptions, { tokenCounts, context }: TuningSteps): EngineOptions {
  const tokensMax = Math.max(context, ...tokenCounts) + sequencesMax;
  return {
    ...engine,
    maxBatchedTokens: tokensMax,
    maxSequences: sequencesMax,
    maxRows: sequencesMax,
    numBlocks: Math.ceil(tokensMax / engine.blockSize) + 2 * sequencesMax,
    deterministic: false,
    tuning: "none",
  };
}

type StepEngine = Pick<LoadedEngine, "runner" | "config" | "policy" | "gpu">;

/** The dispatches of a step of so many tokens, whose operands hold what such a step left in them. */
export async function stepDispatches(
  engine: StepEngine,
  tokens: number,
  context: number,
): Promise<readonly Dispatch[]> {
  const { runner, gpu } = engine;
  const isDecode = tokens <= runner.limits.sequences;
  const sequences = isDecode ? tokens : 1;
  const before = isDecode ? Math.max(1, Math.floor(context / sequences)) : 0;
  const each = isDecode ? 1 : tokens;
  if (isDecode) runner.run(stepOf(engine, { sequences, start: 0, each: before }));
  const step = stepOf(engine, { sequences, start: before, each });
  runner.run(step);
  await gpu.device.queue.onSubmittedWorkDone();
  gpu.assertAlive();
  return runner.dispatchesOf(step);
}

/** The next `each` tokens of so many sequences that have `start` behind them, each in blocks of its own. */
function stepOf(
  { runner, config, policy }: StepEngine,
  { sequences, start, each }: { sequences: number; start: number; each: number },
): RunnablePlan {
  const blocks = Math.ceil((start + each + 1) / runner.limits.blockSize);
  const main = Array.from({ length: sequences }, (_, index): Rectangle => {
    const table = Array.from({ length: blocks }, (_value, block) => 1 + index * blocks + block);
    return {
      requestId: String(index),
      choice: 0,
      tokenIds: ids(each, config.vocabSize, index + 1),
      start,
      writeStart: start,
      prefixLength: policy.nonCausal ? start || each : 0,
      tables: policy.groups.map(() => table),
      logits: "last",
      sampling: [{ temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0n, step: 0 }],
    };
  });
  return { copies: [], main, layered: null };
}

/** Pseudorandom token ids. */
function ids(count: number, vocabSize: number, seed: number): number[] {
  let state = seed;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabSize);
  });
}
