/** The gated feed-forward part of a block: down(act(gate x) * up x). */
import { gatedActivation } from "../../gpu/kernels/gated-activation.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "./context.ts";
import type { Linear } from "./linear.ts";

export interface GatedMlpOptions {
  /** [2 * intermediate, hidden], rows gate | up. */
  gateUp: Linear;
  /** [hidden, intermediate] */
  down: Linear;
  activation: "silu" | "gelu-tanh";
}

export class GatedMlp {
  readonly #options: GatedMlpOptions;

  constructor(options: GatedMlpOptions) {
    this.#options = options;
  }

  /** y = mlp(x), or y += mlp(x) with `accumulate`; both [tokens, hidden]. */
  forward(
    context: ForwardContext,
    { x, y, accumulate }: { x: Tensor; y: Tensor; accumulate: boolean },
  ): void {
    const { gateUp, down, activation } = this.#options;
    const { workspace, tokens, recorder, traits } = context;
    const both = workspace.tensor("gate-up", tokens, gateUp.outputs);
    const activated = workspace.tensor("activated", tokens, gateUp.outputs / 2);
    gateUp.forward(context, { x, y: both });
    recorder.add(gatedActivation(traits, { x: both, y: activated, activation }));
    down.forward(context, { x: activated, y, accumulate });
  }
}
