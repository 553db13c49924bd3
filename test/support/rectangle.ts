/** Step plans by hand: a rectangle needs only what the test is about. */
import type { RunnablePlan } from "../../src/engine/runner.ts";
import type { LayeredStep, Rectangle, RowSampling } from "../../src/engine/step-plan.ts";

/** Greedy, the first token of an answer. */
export const greedyRow: RowSampling = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 1n, step: 0 };

/** Of one token at position 0 in block 1; it writes all its tokens unless `writeStart` is given. */
export function rectangle(changes: Partial<Rectangle> = {}): Rectangle {
  const { start = 0 } = changes;
  return {
    requestId: "a",
    choice: 0,
    tokenIds: [1],
    start,
    writeStart: start,
    prefixLength: 0,
    tables: [[1]],
    logits: "last",
    sampling: [],
    ...changes,
  };
}

export function mainPlan(...main: Rectangle[]): RunnablePlan {
  return { copies: [], main, layered: null };
}

export function layeredPlan(layered: LayeredStep, ...main: Rectangle[]): RunnablePlan {
  return { copies: [], main, layered };
}
