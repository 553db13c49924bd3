/** A runner without a device: keeps every plan, and answers a step when the test says so (or at once). */
import type { RunnablePlan, Runner, StepResult, Wanted } from "../../src/engine/runner.ts";
import type { Observation, PromptOutput, Rectangle } from "../../src/engine/step-plan.ts";

/** A row that a step samples: the `step`-th id of an answer. */
export interface FakeRow {
  requestId: string;
  choice: number;
  step: number;
}

/** A submitted step. `answer` or `fail` settles its ids; asking for them twice is an error, as on a real runner. */
export interface FakeStep {
  plan: RunnablePlan;
  wanted: readonly Wanted[];
  rows: readonly FakeRow[];
  isRead: boolean;
  answer: (...ids: number[]) => void;
  fail: (error: Error) => void;
}

export interface FakeRunnerOptions {
  passCount?: number;
  /** The id of a row; left out, the test answers each step itself. */
  script?: (row: FakeRow) => number;
  logitsOf?: (row: FakeRow) => number[];
  /** Of the token at a position of a prompt that is observed. */
  promptLogitsOf?: (requestId: string, position: number) => number[];
  /** The final state of the token at a position of a prompt that is observed. */
  stateOf?: (requestId: string, position: number) => number[];
  /** Called before a step is taken; may throw as a real runner would. */
  onRun?: (plan: RunnablePlan) => void;
}

export class FakeRunner implements Pick<Runner, "run" | "passCount"> {
  readonly passCount: number;
  readonly steps: FakeStep[] = [];
  readonly #options: FakeRunnerOptions;

  constructor(options: FakeRunnerOptions = {}) {
    this.passCount = options.passCount ?? 4;
    this.#options = options;
  }

  run(plan: RunnablePlan, ...wanted: Wanted[]): StepResult {
    const { script, logitsOf, promptLogitsOf, stateOf, onRun } = this.#options;
    onRun?.(plan);
    const { promise, resolve, reject } = Promise.withResolvers<Uint32Array>();
    promise.catch(() => {}); // a failed step that nobody reads is no fault
    const rows = this.#rowsOf(plan);
    const answer = (...ids: number[]) => resolve(Uint32Array.from(ids));
    const step: FakeStep = { plan, wanted, rows, isRead: false, answer, fail: reject };
    this.steps.push(step);
    if (script) answer(...rows.map(script));
    const logits = (row: FakeRow) => logitsOf?.(row) ?? [];
    const promptLogits = ({ requestId, observed }: Rectangle) =>
      positionsOf(observed, "logits").flatMap((position) => promptLogitsOf?.(requestId, position) ?? []);
    const stateSum = ({ requestId, observed }: Rectangle) => {
      const states = positionsOf(observed, "states").map((position) => stateOf?.(requestId, position) ?? [0]);
      return states.length === 0 ? [] : states[0].map((_, at) => states.reduce((sum, s) => sum + s[at], 0));
    };
    return {
      sampled: () => {
        if (step.isRead) throw new Error("the ids of a step were read twice");
        step.isRead = true;
        return promise;
      },
      logits: async () => Float32Array.from(rows.flatMap(logits)),
      promptLogits: async () => Float32Array.from(plan.main.flatMap(promptLogits)),
      stateSums: async () => Float32Array.from(this.#ending(plan).flatMap(stateSum)),
    };
  }

  /** The main batch's rectangles of all steps. */
  get rectangles(): Rectangle[] {
    return this.steps.flatMap(({ plan }) => plan.main);
  }

  rectanglesOf(requestId: string): Rectangle[] {
    return this.rectangles.filter((rectangle) => rectangle.requestId === requestId);
  }

  /** Steps that were submitted and whose ids have not come yet are at most this many at any time. */
  get unread(): number {
    return this.steps.filter(({ isRead }) => !isRead).length;
  }

  /** The rectangles that have run through all passes. */
  #ending({ main, layered }: RunnablePlan): Rectangle[] {
    return layered?.to === this.passCount ? [...main, layered.rectangle] : [...main];
  }

  #rowsOf(plan: RunnablePlan): FakeRow[] {
    return this.#ending(plan).flatMap(({ requestId, choice, sampling }) =>
      sampling.map(({ step }, index) => ({ requestId, choice: choice + index, step })),
    );
  }
}

function positionsOf(observed: Observation | undefined, output: PromptOutput): number[] {
  if (observed?.output !== output) return [];
  return Array.from({ length: observed.end - observed.start }, (_, index) => observed.start + index);
}

/** Lets everything run that waits for nothing but its turn. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}
