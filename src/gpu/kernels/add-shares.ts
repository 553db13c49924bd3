import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const addSharesSpec: KernelSpec = {
  name: "add-shares",
  files: ["add-shares"],
  params: { tokens: "u32", channels: "u32", shares: "u32" },
  tensors: {
    x: tensor("read_write", "f32", "tokens channels"),
    partials: tensor("read", "f32", "partial_rows channels"),
  },
};

export interface AddSharesOptions {
  /** f32 [tokens, channels], added to. */
  x: Tensor;
  /** f32 [shares * tokens, channels] */
  partials: Tensor;
}

/** x += the sum of a product's shares, in the order of `addNormF16`; channels must be a multiple of 4. */
export function addShares(traits: GpuTraits, { x, partials }: AddSharesOptions): Dispatch {
  const tensors = { x, partials };
  const { tokens, channels, partial_rows } = matchTensors(addSharesSpec, tensors);
  checkMultiple("add-shares", "channels", channels, 4);
  checkMultiple("add-shares", "the rows of partials", partial_rows, tokens);
  const shares = partial_rows / tokens;
  const { lanes, workgroups } = tokenGrid(traits, tokens, channels / 4);
  return {
    spec: addSharesSpec,
    file: "add-shares",
    constants: { LANES: lanes },
    tensors,
    params: { tokens, channels, shares },
    workgroups,
    bytes: 4 * tokens * channels * (2 + shares),
    flops: tokens * channels * shares,
  };
}
