/** When a step's work is done by kernels that fuse what surrounds a product: few rows, on a GPU that shuffles. */
import { fusedTokensMax } from "../../gpu/kernels/fused-linear.ts";
import type { ForwardContext } from "./context.ts";

/**
 * Whether products of so many rows take their norm, activation and residual along. What a row gives then depends, in
 * its last bits, on how many there are, which a deterministic engine must not let happen.
 */
export function isFused({ traits }: Pick<ForwardContext, "traits">, rowCount: number): boolean {
  return traits.hasSubgroups && !traits.isCpu && !traits.deterministic && rowCount <= fusedTokensMax;
}
