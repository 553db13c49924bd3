/** What a step gives of prompts' own tokens beside the answers, on its way from the device to the requests. */
import type { ActiveRequest } from "./active-request.ts";
import type { StepResult, Wanted } from "./runner.ts";
import type { Observation, PromptOutput, Rectangle } from "./step-plan.ts";

interface ObservedPrompt {
  request: ActiveRequest;
  observed: Observation;
}

export class ObservedPrompts {
  readonly #prompts: readonly ObservedPrompt[];

  /** `rectangles` are those that the step takes to the end, in order; requests that are not known any more get nothing. */
  constructor(rectangles: readonly Rectangle[], activeOf: (requestId: string) => ActiveRequest | undefined) {
    this.#prompts = rectangles.flatMap(({ requestId, observed }) => {
      const request = activeOf(requestId);
      return request && observed ? [{ request, observed }] : [];
    });
  }

  /** The results that `take` reads. */
  get wanted(): Wanted[] {
    return [
      ...(this.#with("logits").length > 0 ? (["promptLogits"] as const) : []),
      ...(this.#with("states").length > 0 ? (["stateSums"] as const) : []),
    ];
  }

  /** Waits for the step's results and hands them to the requests. */
  async take(result: StepResult): Promise<void> {
    const { wanted } = this;
    await Promise.all([
      wanted.includes("promptLogits") && result.promptLogits().then((logits) => this.#keepLogits(logits)),
      wanted.includes("stateSums") && result.stateSums().then((sums) => this.#keepSums(sums)),
    ]);
  }

  #keepLogits(logits: Float32Array): void {
    const prompts = this.#with("logits");
    const rowCount = prompts.reduce((sum, { observed }) => sum + observed.end - observed.start, 0);
    const size = logits.length / rowCount;
    let row = 0;
    for (const { request, observed } of prompts) {
      request.keepPromptLogits(observed, logits.subarray(row * size));
      row += observed.end - observed.start;
    }
  }

  #keepSums(sums: Float32Array): void {
    const prompts = this.#with("states");
    const size = sums.length / prompts.length;
    prompts.forEach(({ request, observed }, index) => {
      request.keepStateSum(observed, sums.subarray(index * size, (index + 1) * size));
    });
  }

  #with(output: PromptOutput): ObservedPrompt[] {
    return this.#prompts.filter(({ observed }) => observed.output === output);
  }
}
