/** The gated feed-forward part of a block: down(act(gate x) * up x). */
import type { Activation } from "../../gpu/kernels/gated-activation.ts";
import type { BranchIo } from "./block.ts";
import type { ForwardContext } from "./context.ts";
import type { Linear } from "./linear.ts";

export interface GatedMlpOptions {
  /** [2 * intermediate, hidden], rows gate | up. */
  gateUp: Linear;
  /** [hidden, intermediate] */
  down: Linear;
  activation: Activation;
}

export class GatedMlp {
  readonly options: GatedMlpOptions;

  constructor(options: GatedMlpOptions) {
    this.options = options;
  }

  forward(context: ForwardContext, { x, norm, y }: BranchIo): void {
    const { gateUp, down, activation } = this.options;
    const { workspace, tokens } = context;
    const isHalf = [gateUp, down].every((product) => product.inputDtype(context, tokens) === "f16");
    const activated = workspace.tensor("activated", tokens, gateUp.outputs / 2, isHalf ? "f16" : "f32");
    gateUp.forward(context, { x, norm, y: activated, activation });
    down.forward(context, { x: activated, y });
  }
}
