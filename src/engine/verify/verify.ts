/**
 * Runs a checkpoint's cases through the real runner, many sequences a step, and compares with what is expected.
 *
 * The greedy ids are fed, not the engine's own choices, so one wrong id does not hide the rest. At every step the
 * engine's arg max must be the greedy id, unless the two logits are closer than the largest error seen there.
 */
import { BlockPool } from "../kv-cache/block-pool.ts";
import type { Runner } from "../runner.ts";
import { type Rectangle, rectangleRows } from "../step-plan.ts";
import type { VerifyCase } from "./cases.ts";
import { judge, type CaseResult } from "./judge.ts";
import type { Tolerance } from "./tolerance.ts";

/** A case with its place in the KV cache and the logits collected so far, rows of [vocab] each. */
interface Running {
  verifyCase: VerifyCase;
  blocks: number[];
  rows: Float32Array[];
}

export interface VerifyOptions {
  runner: Pick<Runner, "run" | "limits">;
  /** KV blocks that every group of layers has, the null block included. */
  blockCount: number;
  /** Groups of layers; all get the same blocks. */
  groupCount: number;
  vocabSize: number;
  tolerance: Tolerance;
  onResult?: (result: CaseResult) => void;
}

/** Results in the order of the cases. */
export async function verify(cases: readonly VerifyCase[], options: VerifyOptions): Promise<CaseResult[]> {
  const results: CaseResult[] = [];
  const pool = new BlockPool(options.blockCount);
  let rest = cases;
  while (rest.length > 0) {
    const batch = takeBatch(rest, options, pool);
    rest = rest.slice(batch.length);
    await runBatch(batch, options);
    for (const { verifyCase, rows, blocks } of batch) {
      const result = judge(verifyCase, rows, options.tolerance);
      results.push(result);
      options.onResult?.(result);
      pool.release(blocks);
    }
  }
  return results;
}

/** As many of the next cases as fit one prefill step; throws if not even the first does. */
function takeBatch(cases: readonly VerifyCase[], { runner }: VerifyOptions, pool: BlockPool): Running[] {
  const { limits } = runner;
  const batch: Running[] = [];
  let tokens = 0;
  let rows = 0;
  for (const verifyCase of cases) {
    const { promptIds, greedyIds } = verifyCase;
    tokens += promptIds.length;
    rows += verifyCase.promptLogits ? promptIds.length : 1;
    if (tokens > limits.tokens || rows > limits.rows || batch.length === limits.sequences) break;
    const blocks = pool.allocate(Math.ceil((promptIds.length + greedyIds.length) / limits.blockSize));
    if (!blocks) break;
    batch.push({ verifyCase, blocks, rows: [] });
  }
  if (batch.length === 0) {
    const { name, promptIds } = cases[0];
    throw new Error(`Cannot run case ${name} of ${promptIds.length} tokens in a step of ${limits.tokens}`);
  }
  return batch;
}

async function runBatch(batch: readonly Running[], options: VerifyOptions): Promise<void> {
  await runStep(batch, options, ({ promptIds, promptLogits }) => {
    return { tokenIds: promptIds, start: 0, logits: promptLogits ? "all" : "last" };
  });
  for (let step = 0; ; step++) {
    const active = batch.filter(({ verifyCase }) => step < stepCount(verifyCase));
    if (active.length === 0) return;
    await runStep(active, options, ({ promptIds, greedyIds }) => {
      return { tokenIds: [greedyIds[step]], start: promptIds.length + step, logits: "last" };
    });
  }
}

/** Decode steps: the logits after the last greedy id are wanted only where something is known of them. */
function stepCount({ greedyIds, decodeLogits }: VerifyCase): number {
  return decodeLogits ? greedyIds.length : Math.max(0, greedyIds.length - 1);
}

type Tokens = Pick<Rectangle, "tokenIds" | "start" | "logits">;

async function runStep(
  running: readonly Running[],
  { runner, vocabSize, groupCount }: VerifyOptions,
  tokensOf: (verifyCase: VerifyCase) => Tokens,
): Promise<void> {
  const main = running.map(({ verifyCase, blocks }, index): Rectangle => {
    const tokens = tokensOf(verifyCase);
    return {
      requestId: String(index),
      choice: 0,
      ...tokens,
      writeStart: tokens.start,
      prefixLength: verifyCase.prefixLength,
      tables: Array.from({ length: groupCount }, () => blocks),
      sampling: [],
    };
  });
  const logits = await runner.run({ copies: [], main, layered: null }, "logits").logits();
  let row = 0;
  running.forEach((item, index) => {
    for (let count = rectangleRows(main[index]); count > 0; count--, row++) {
      item.rows.push(logits.slice(row * vocabSize, (row + 1) * vocabSize));
    }
  });
}
