/**
 * The residual stream of a step: f32 [tokens, hidden], normed before every branch, which adds to it what it gives.
 *
 * A product of few tokens keeps a GPU busy only if it is split into shares of its inputs. Who reads the stream next is a
 * norm, and adds the shares up on its way. Until then they are pending: they lie in scratch memory, and the tensor lacks
 * them. Whoever else wants the stream takes `whole`, and nothing may be pending where a batch may stop.
 */
import { addShares } from "../../gpu/kernels/add-shares.ts";
import type { GemmOptions } from "../../gpu/kernels/gemm.ts";
import { gemmShares, shareRowsMax } from "../../gpu/kernels/gemm-tiles.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "./context.ts";
import type { RmsNorm } from "./norm.ts";
import type { Remembered } from "./remembered.ts";

type Recording = Pick<ForwardContext, "traits" | "recorder" | "workspace">;

export class ResidualStream {
  readonly #tensor: Tensor;
  /** f32 [shares * tokens, hidden] */
  #pending: Tensor | null = null;

  /** Over f32 [tokens, hidden]. */
  constructor(tensor: Tensor) {
    this.#tensor = tensor;
  }

  get shape(): readonly number[] {
    return this.#tensor.shape;
  }

  /** The stream with all that was added to it, to be read or written. */
  whole(context: Recording): Tensor {
    const partials = this.#taken();
    if (partials) context.recorder.add(addShares(context.traits, { x: this.#tensor, partials }));
    return this.#tensor;
  }

  /** y = norm(stream) in f16, for a product on matrix units. */
  normHalf(context: Recording, norm: RmsNorm, y: Tensor): void {
    const partials = this.#taken();
    norm.forwardHalf(context, { x: this.#tensor, y, partials });
  }

  /** stream += x W^T + b on matrix units, by `gemm`; x is f16. */
  addProduct(
    context: Recording,
    gemm: Remembered<GemmOptions>,
    { x, weight, bias }: Pick<GemmOptions, "x" | "weight" | "bias">,
  ): void {
    const { traits, recorder, workspace } = context;
    const y = this.whole(context);
    const [tokens, hidden] = y.shape;
    const shares = bias ? 1 : gemmShares(traits, { tokens, inputs: x.shape[1], rows: hidden });
    if (shares === 1) {
      recorder.add(gemm.get(traits, { x, weight, y, bias, accumulate: true }));
      return;
    }
    this.#pending = workspace.sized("shares", [shares * tokens, hidden], shareRowsMax);
    recorder.add(gemm.get(traits, { x, weight, y: this.#pending, shares }));
  }

  #taken(): Tensor | undefined {
    const partials = this.#pending ?? undefined;
    this.#pending = null;
    return partials;
  }
}
