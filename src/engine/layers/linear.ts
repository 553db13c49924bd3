/** A product with a weight matrix. */
import { linear } from "../../gpu/kernels/linear.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "./context.ts";

export class Linear {
  /** [outputs, inputs], in the dtype it was loaded as. */
  readonly weight: Tensor;
  /** f32 [outputs] */
  readonly bias: Tensor | undefined;

  constructor(weight: Tensor, bias?: Tensor) {
    this.weight = weight;
    this.bias = bias;
  }

  get outputs(): number {
    return this.weight.shape[0];
  }

  /** y = x W^T + b, or y += ... with `accumulate`. x [tokens, inputs], y [tokens, outputs], f32. */
  forward(
    context: ForwardContext,
    { x, y, accumulate }: { x: Tensor; y: Tensor; accumulate?: boolean },
  ): void {
    const { weight, bias } = this;
    context.recorder.add(linear(context.traits, { x, y, weight, bias, accumulate }));
  }
}
