import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const sumPoolSpec: KernelSpec = {
  name: "sum-pool",
  files: ["sum-pool"],
  params: { pools: "u32", channels: "u32", tokens: "u32" },
  tensors: {
    ranges: tensor("read", "u32", "pools 2"),
    x: tensor("read", "f32", "tokens channels"),
    y: tensor("read_write", "f32", "pools channels"),
  },
};

export interface SumPoolOptions {
  /** u32 [pools, 2]: the first row of each pool and how many rows it has. Must be in range. */
  ranges: Tensor;
  /** f32 [tokens, channels] */
  x: Tensor;
  /** f32 [pools, channels] */
  y: Tensor;
}

/** y[p] = sum of the rows of x that pool p has; channels must be a multiple of 4, and y must not share memory with x. */
export function sumPool(traits: GpuTraits, { ranges, x, y }: SumPoolOptions): Dispatch {
  const { pools, tokens, channels } = matchTensors(sumPoolSpec, { ranges, x, y });
  checkMultiple("sum-pool", "channels", channels, 4);
  const { lanes, workgroups } = tokenGrid(traits, pools, channels / 4);
  return {
    spec: sumPoolSpec,
    file: "sum-pool",
    constants: { LANES: lanes },
    tensors: { ranges, x, y },
    params: { pools, channels, tokens },
    workgroups,
    // As if every row were in a pool.
    bytes: 4 * channels * (tokens + pools),
    flops: tokens * channels,
  };
}
