/** A product with a weight matrix, and what goes before and after it. */
import { fusedLinear } from "../../gpu/kernels/fused-linear.ts";
import { type Activation, gatedActivation } from "../../gpu/kernels/gated-activation.ts";
import { gemm, type GemmOptions } from "../../gpu/kernels/gemm.ts";
import { linear } from "../../gpu/kernels/linear.ts";
import { normF16 } from "../../gpu/kernels/norm-f16.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "./context.ts";
import { isFused, usesMatrixUnits } from "./fusion.ts";
import type { RmsNorm } from "./norm.ts";
import { Remembered } from "./remembered.ts";
import { ResidualStream } from "./residual-stream.ts";
import type { Workspace } from "./workspace.ts";

export interface LinearIo {
  /** f32 [rows, inputs], or what `inputDtype` says. */
  x: Tensor | ResidualStream;
  /**
   * f32 [rows, outputs], or f16 where `usesMatrixUnits`; half as many outputs behind an activation. Not the memory of x.
   * A stream is added to.
   */
  y: Tensor | ResidualStream;
  /** Norms x first. */
  norm?: RmsNorm;
  /** The outputs are gate | up, and y = act(gate) * up. */
  activation?: Activation;
}

export class Linear {
  /** [outputs, inputs], in the dtype it was loaded as. */
  readonly weight: Tensor;
  /** f32 [outputs] */
  readonly bias: Tensor | undefined;
  readonly #gemm = new Remembered<GemmOptions>(gemm);

  constructor(weight: Tensor, bias?: Tensor) {
    this.weight = weight;
    this.bias = bias;
  }

  get outputs(): number {
    return this.weight.shape[0];
  }

  /** What x is best given as: f16 spares a product on matrix units a conversion. */
  inputDtype(context: ForwardContext, rowCount: number): "f32" | "f16" {
    return usesMatrixUnits(context, this.weight, rowCount) ? "f16" : "f32";
  }

  /** y = act(norm(x) W^T + b): one kernel where few rows allow it, else one each. `scratch` has a row for each of x. */
  forward(context: ForwardContext, io: LinearIo, scratch: Workspace = context.workspace): void {
    const { norm, activation } = io;
    const { weight, bias } = this;
    if (usesMatrixUnits(context, weight, io.x.shape[0])) {
      this.#onMatrixUnits(context, io, scratch);
      return;
    }
    const [x, y] = [tensorOf(context, io.x), tensorOf(context, io.y)];
    const accumulate = io.y instanceof ResidualStream;
    if (isFused(context, weight, x.shape[0])) {
      const options = { x, y, weight, bias, activation, accumulate, norm: norm?.fused };
      context.recorder.add(fusedLinear(context.traits, options));
      return;
    }
    const normed = norm ? scratch.tensor("normed", x.shape[0], x.shape[1]) : x;
    norm?.forward(context, { x, y: normed });
    if (!activation) {
      context.recorder.add(linear(context.traits, { x: normed, y, weight, bias, accumulate }));
      return;
    }
    if (accumulate) throw new TypeError("Cannot add an activation's result to what is there: expected y =");
    const both = scratch.tensor("gate-up", x.shape[0], this.outputs);
    context.recorder.add(linear(context.traits, { x: normed, y: both, weight, bias }));
    context.recorder.add(gatedActivation(context.traits, { x: both, y, activation }));
  }

  #onMatrixUnits(context: ForwardContext, io: LinearIo, scratch: Workspace): void {
    const { y, activation } = io;
    const { weight, bias } = this;
    const x = halfOf(context, io, scratch);
    if (!(y instanceof ResidualStream))
      context.recorder.add(this.#gemm.get(context.traits, { x, y, weight, bias, activation }));
    else y.addProduct(context, this.#gemm, { x, weight, bias });
  }
}

/** A stream with all that was added to it, or the tensor itself. */
export function tensorOf(context: ForwardContext, x: Tensor | ResidualStream): Tensor {
  return x instanceof ResidualStream ? x.whole(context) : x;
}

/** x, normed if asked for, in f16. */
function halfOf(context: ForwardContext, { x, norm }: LinearIo, scratch: Workspace): Tensor {
  if (!(x instanceof ResidualStream) && x.dtype === "f16") return x;
  const y = scratch.tensor("normed", x.shape[0], x.shape[1], "f16");
  if (norm && x instanceof ResidualStream) x.normHalf(context, norm, y);
  else if (norm) norm.forwardHalf(context, { x: tensorOf(context, x), y });
  else context.recorder.add(normF16(context.traits, { x: tensorOf(context, x), y, eps: 0, normed: false }));
  return y;
}
