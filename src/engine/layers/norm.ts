/** Root-mean-square normalisation (arXiv 1910.07467), with a weight, without, or with 1 + weight (Gemma). */
import type { FusedNorm } from "../../gpu/kernels/fused-linear.ts";
import { addNormF16, normF16, type NormF16Options } from "../../gpu/kernels/norm-f16.ts";
import { rmsNorm, type RmsNormOptions } from "../../gpu/kernels/rms-norm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "./context.ts";
import { Remembered } from "./remembered.ts";

export class RmsNorm {
  readonly #options: Pick<RmsNormOptions, "eps" | "weight" | "weightPlusOne">;
  readonly #half = new Remembered<NormF16Options>(normF16);
  readonly #added = new Remembered<NormF16Options & { partials: Tensor }>(addNormF16);

  constructor(options: { eps: number; weight?: Tensor; weightPlusOne?: boolean }) {
    this.#options = options;
  }

  /** The same norm as a part of the product that follows it. */
  get fused(): FusedNorm {
    const { eps, weight, weightPlusOne } = this.#options;
    return { eps, weight, plusOne: weightPlusOne };
  }

  /**
   * y = norm(x) in f16, for a product on matrix units; behind one in shares, f32 [shares * rows, channels], which are
   * added to x first.
   */
  forwardHalf(
    context: Pick<ForwardContext, "traits" | "recorder">,
    { x, y, partials }: { x: Tensor; y: Tensor; partials?: Tensor },
  ): void {
    const options = { x, y, ...this.#options };
    const { traits, recorder } = context;
    recorder.add(
      partials ? this.#added.get(traits, { ...options, partials }) : this.#half.get(traits, options),
    );
  }

  /** y = norm(x), or y += with `accumulate`, over rows or the given heads of each; f32, x and y in different memory. */
  forward(context: ForwardContext, io: Pick<RmsNormOptions, "x" | "y" | "heads" | "accumulate">): void {
    context.recorder.add(rmsNorm(context.traits, { ...io, ...this.#options }));
  }
}
