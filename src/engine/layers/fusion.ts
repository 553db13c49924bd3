/** Which kernels do a step's products: those for few rows, those on matrix units for many, or the plain ones. */
import type { GpuTraits } from "../../gpu/gpu.ts";
import { fusedTokensMax } from "../../gpu/kernels/fused-linear.ts";
import { suitsGemm } from "../../gpu/kernels/gemm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "./context.ts";

type Device = Pick<ForwardContext, "traits">;

/** From so many rows on, matrix units were faster than the fused kernels (H100, docs/log.md). */
const matrixRowsMin = 3;

/**
 * Whether a product of so many rows with this matrix takes its norm, activation and residual along. What a row gives
 * then depends, in its last bits, on how many there are, which a deterministic engine must not let happen.
 */
export function isFused(context: Device, weight: Tensor, rowCount: number): boolean {
  const { hasSubgroups, isCpu, deterministic } = context.traits;
  const suits = hasSubgroups && !isCpu && !deterministic && rowCount <= fusedTokensMax;
  return suits && !usesMatrixUnits(context, weight, rowCount);
}

/**
 * Whether a product of so many rows with this matrix is done on matrix units, which round its input to f16. Their sums
 * differ from those of the kernels for few rows, so a deterministic engine does without.
 */
export function usesMatrixUnits({ traits }: Device, weight: Tensor, rowCount: number): boolean {
  return rowCount >= matrixRowsMin && mayUseMatrixUnits(traits) && suitsGemm(traits, weight);
}

/** Whether an engine on this device uses matrix units at all. */
export function mayUseMatrixUnits({ hasSubgroupMatrix, isCpu, deterministic }: GpuTraits): boolean {
  return hasSubgroupMatrix && !isCpu && !deterministic;
}
