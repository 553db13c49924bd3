/** Watches plans as they come: the budget is kept, the batch has places for all, and nobody waits for ever. */
import type { Sequence } from "../../src/engine/scheduler/sequence.ts";
import { rectangleRows, type StepPlan, tokenCount } from "../../src/engine/step-plan.ts";
import type { Scenario } from "./scenario.ts";

export class Watch {
  readonly #scenario: Scenario;
  /** By request: the last step in which it was planned, or could not be. */
  readonly #lastProgress = new Map<string, number>();
  readonly #stepsMax: number;
  #lastLayered: { requestId: string; step: number } | null = null;
  steps = 0;

  constructor(scenario: Scenario) {
    this.#scenario = scenario;
    this.#stepsMax = waitMax(scenario);
  }

  /** The plan that is about to run, the requests that could be in it, and the sequences that are alive. */
  check(plan: StepPlan, runnable: readonly string[], sequences: readonly Sequence[]): void {
    this.steps++;
    this.#checkBudget(plan);
    this.#checkPlaces(plan);
    this.#checkProgress(plan, runnable);
    this.#checkLayered(plan, sequences);
  }

  #checkBudget({ main, layered, cost }: StepPlan): void {
    const { maxBatchedTokens, passCount } = this.#scenario.limits;
    const mainTokens = tokenCount(main);
    const passes = layered ? layered.to - layered.from : 0;
    const layeredWork = layered ? layered.rectangle.tokenIds.length * passes : 0;
    const work = mainTokens * passCount + layeredWork;
    if (Math.abs(cost * passCount - work) > 1e-6) throw new Error(`a step of cost ${work} says ${cost}`);
    const isOver = work > maxBatchedTokens * passCount;
    // A single pass is what a long prompt gets at least.
    if (mainTokens > maxBatchedTokens || (isOver && passes !== 1))
      throw new Error(`the budget of ${maxBatchedTokens} tokens is overrun: ${work / passCount}`);
  }

  #checkPlaces({ main, layered }: StepPlan): void {
    const { maxSequences } = this.#scenario.limits;
    const rectangles = layered ? [...main, layered.rectangle] : main;
    const rows = rectangles.reduce((sum, rectangle) => sum + rectangleRows(rectangle), 0);
    if (rectangles.length > maxSequences || rows > maxSequences)
      throw new Error(`a batch of ${maxSequences} has ${rectangles.length} sequences and ${rows} rows`);
  }

  #checkProgress({ main, layered }: StepPlan, runnable: readonly string[]): void {
    for (const { requestId } of main) this.#lastProgress.set(requestId, this.steps);
    if (layered) this.#lastProgress.set(layered.rectangle.requestId, this.steps);
    for (const id of this.#lastProgress.keys()) if (!runnable.includes(id)) this.#lastProgress.delete(id);
    for (const id of runnable) {
      const last = this.#lastProgress.get(id);
      if (last === undefined) this.#lastProgress.set(id, this.steps);
      else if (this.steps - last > this.#stepsMax)
        throw new Error(`starvation: request ${id} has not been planned for ${this.steps - last} steps`);
    }
  }

  /** Once begun, a layered prefill has a pass in every step, unless decodes fill it, and that not for long. */
  #checkLayered({ main, layered, id }: StepPlan, sequences: readonly Sequence[]): void {
    const { maxBatchedTokens, passCount, starvationStepsMax } = this.#scenario.limits;
    const last = this.#lastLayered;
    if (layered) {
      const isDone = layered.to === passCount;
      this.#lastLayered = isDone ? null : { requestId: layered.rectangle.requestId, step: id };
    } else if (last) {
      const isOn = sequences.some(
        ({ request, state, isPaused }) =>
          request.id === last.requestId && state === "prefilling" && !isPaused,
      );
      const isFull = tokenCount(main) >= maxBatchedTokens;
      if (isOn && (!isFull || id - last.step > starvationStepsMax + 1))
        throw new Error(`starvation: the layered prefill of ${last.requestId} did not go on`);
      if (!isOn) this.#lastLayered = null;
    }
  }
}

/** Steps that all other requests together may take, some of them twice for preemption. */
function waitMax({ actions, limits }: Scenario): number {
  const work = actions
    .filter(({ kind }) => kind === "submit")
    .map(({ request: { promptIds, maxTokens, answers } }) => {
      const prefill = Math.ceil(promptIds.length / limits.maxBatchedTokens) + limits.passCount;
      return prefill + maxTokens * answers.length;
    });
  return 20 + 1.5 * work.reduce((sum, steps) => sum + steps, 0);
}
