import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { flatten, type Tensor } from "../tensor.ts";
import { checkMultiple, rowGrid } from "./token-grid.ts";

export const normF16Spec: KernelSpec = {
  name: "norm-f16",
  files: ["norm-f16"],
  params: { tokens: "u32" },
  tensors: {
    x: tensor("read", "f32", "tokens channels"),
    weight: tensor("read", "f32", "weights"),
    y: tensor("read_write", "packed", "tokens channels"),
  },
};

export const addNormF16Spec: KernelSpec = {
  name: "add-norm-f16",
  files: ["add-norm-f16"],
  params: { tokens: "u32" },
  tensors: {
    x: tensor("read_write", "f32", "tokens channels"),
    partials: tensor("read", "f32", "partial_rows channels"),
    weight: tensor("read", "f32", "weights"),
    y: tensor("read_write", "packed", "tokens channels"),
  },
};

export interface NormF16Options {
  /** f32 [tokens, channels] */
  x: Tensor;
  /** f16 [tokens, channels] */
  y: Tensor;
  /** False only rounds. Default true. */
  normed?: boolean;
  /** f32 [channels]; left out, the norm has no weight. */
  weight?: Tensor;
  /** Multiplies by 1 + w instead of w, as Gemma does. */
  weightPlusOne?: boolean;
  eps: number;
}

/** Up to so many, a GPU has cores to spare for each. */
const fewTokens = 64;

/** Lanes that fold the sums of all; the lanes of a workgroup on a GPU are a multiple. */
const foldLanes = 32;

/** y = x / rms(x) [* w], rounded to f16: what `gemm` reads. channels is a multiple of 4. */
export function normF16(traits: GpuTraits, options: NormF16Options): Dispatch {
  const { x, y, weight } = options;
  const tensors = { x, weight: weight ?? flatten(x), y };
  const sizes = matchTensors(normF16Spec, tensors);
  check("norm-f16", options, sizes.channels);
  return dispatch(traits, options, { spec: normF16Spec, tensors, sizes, shares: 0 });
}

/** The same behind a product split along k: x += the sum of its shares, f32 [shares * tokens, channels], first. */
export function addNormF16(traits: GpuTraits, options: NormF16Options & { partials: Tensor }): Dispatch {
  const { x, y, weight, partials } = options;
  const tensors = { x, partials, weight: weight ?? flatten(partials), y };
  const sizes = matchTensors(addNormF16Spec, tensors);
  check("add-norm-f16", options, sizes.channels);
  checkMultiple("add-norm-f16", "the rows of partials", sizes.partial_rows, sizes.tokens);
  const shares = sizes.partial_rows / sizes.tokens;
  return dispatch(traits, options, { spec: addNormF16Spec, tensors, sizes, shares });
}

function dispatch(
  traits: GpuTraits,
  { weight, weightPlusOne, eps, normed = true }: NormF16Options,
  given: Pick<Dispatch, "spec" | "tensors"> & { sizes: Record<string, number>; shares: number },
): Dispatch {
  const { spec, tensors, sizes, shares } = given;
  const { tokens, channels } = sizes;
  const LANES = lanesOf(traits, tokens, channels / 4);
  return {
    spec,
    file: spec.name,
    constants: {
      CHANNELS: channels,
      EPS: eps,
      LANES,
      FOLD: Math.min(LANES, foldLanes),
      WEIGHT: !normed ? 3 : !weight ? 0 : weightPlusOne ? 2 : 1,
      ...(shares > 0 && { SHARES: shares }),
    },
    replace: { QUADS: `${groups(channels / 4, LANES)}u` },
    tensors,
    params: { tokens },
    workgroups: rowGrid(tokens),
    bytes: tokens * channels * (6 + (shares > 0 ? 4 * (shares + 1) : 0)),
    flops: tokens * channels * (4 + shares),
  };
}

/** Of both kernels alike: whether shares were added on the way or before must not show in the norm's bits. */
function lanesOf({ isCpu, workgroupLanesMax }: GpuTraits, tokens: number, quads: number): number {
  if (isCpu) return 4;
  const most = tokens <= fewTokens ? Math.min(512, workgroupLanesMax) : 128;
  return Math.min(foldLanes * groups(quads, foldLanes), most);
}

function check(kernel: string, { weight, y }: NormF16Options, channels: number): void {
  checkMultiple(kernel, "channels", channels, 4);
  if (weight && weight.shape[0] !== channels) {
    throw new TypeError(
      `Cannot run ${kernel}: expected weight [${channels}], got [${weight.shape[0]}] (${weight.name})`,
    );
  }
  if (y.dtype !== "f16") {
    throw new TypeError(`Cannot run ${kernel}: expected y to be f16, got ${y.dtype} (${y.name})`);
  }
}
