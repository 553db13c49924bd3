/** Which kernels do a step's products: those for few rows, those on matrix units for many, or the plain ones. */
import { fusedTokensMax } from "../../gpu/kernels/fused-linear.ts";
import { suitsGemm } from "../../gpu/kernels/gemm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "./context.ts";

/**
 * Whether products of so many rows take their norm, activation and residual along. What a row gives then depends, in
 * its last bits, on how many there are, which a deterministic engine must not let happen.
 */
export function isFused({ traits }: Pick<ForwardContext, "traits">, rowCount: number): boolean {
  return traits.hasSubgroups && !traits.isCpu && !traits.deterministic && rowCount <= fusedTokensMax;
}

/**
 * Whether a product of so many rows with this matrix is done on matrix units, which round its input to f16. Their sums
 * differ from those of the kernels for few rows, so a deterministic engine does without.
 */
export function usesMatrixUnits(
  { traits }: Pick<ForwardContext, "traits">,
  weight: Tensor,
  rowCount: number,
): boolean {
  return rowCount > fusedTokensMax && !traits.isCpu && !traits.deterministic && suitsGemm(traits, weight);
}
