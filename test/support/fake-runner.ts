/** A runner without a device: keeps every plan, and answers a step when the test says so (or at once). */
import type { Runner, StepResult, Wanted } from "../../src/engine/runner.ts";
import type { StepLimits } from "../../src/engine/step-inputs.ts";
import { type SequenceStep, tokenCount } from "../../src/engine/step-plan.ts";

/** A submitted step. `answer` or `fail` settles its ids; asking for them twice is an error, as on a real runner. */
export interface FakeStep {
  plan: readonly SequenceStep[];
  wanted: readonly Wanted[];
  isRead: boolean;
  answer: (...ids: number[]) => void;
  fail: (error: Error) => void;
}

export class FakeRunner implements Pick<Runner, "run" | "limits"> {
  readonly limits: StepLimits;
  readonly steps: FakeStep[] = [];
  /** The id of the n-th sampling step since the start; left out, the test answers each step itself. */
  readonly #script: ((count: number) => number) | undefined;
  #sampledCount = 0;

  constructor(limits: Partial<StepLimits> = {}, script?: (count: number) => number) {
    this.limits = { tokens: 64, sequences: 1, rows: 1, blocksPerSequence: 16, blockSize: 4, ...limits };
    this.#script = script;
  }

  run(plan: readonly SequenceStep[], ...wanted: Wanted[]): StepResult {
    if (tokenCount(plan) > this.limits.tokens) throw new RangeError(`a step of ${tokenCount(plan)} tokens`);
    const { promise, resolve, reject } = Promise.withResolvers<Uint32Array>();
    promise.catch(() => {}); // a failed step that nobody reads is no fault
    const answer = (...ids: number[]) => resolve(Uint32Array.from(ids));
    const step: FakeStep = { plan, wanted, isRead: false, answer, fail: reject };
    this.steps.push(step);
    if (this.#script && wanted.includes("sampled")) answer(this.#script(this.#sampledCount++));
    return {
      sampled: () => {
        if (step.isRead) throw new Error("the ids of a step were read twice");
        step.isRead = true;
        return promise;
      },
      logits: () => Promise.reject(new Error("logits are not faked")),
    };
  }

  /** What the only sequence of each step ran. */
  get sequences(): SequenceStep[] {
    return this.steps.map(({ plan }) => plan[0]);
  }
}

/** Lets everything run that waits for nothing but its turn. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}
