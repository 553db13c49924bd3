/**
 * How far from float32 an engine may be, by the formats it computes in.
 *
 * Sums are float32 in every mode. `exact` is float32 throughout, or weights stored in 16 bits as they came. With 16-bit
 * keys and values (or activations) every element is rounded to 2^-11 (f16) or 2^-8 (bf16) of itself once a layer pass,
 * and what that makes of the logits depends on the model, so the bound is a peer's: transformers 5.17 in float16 is up to
 * 1.9e-2 (relative RMS of all logits) from itself in float32 on the reference folders, in bfloat16 up to 2.1e-1. About
 * half of that is allowed here; a wrong mask or a wrong position is off by 1e-1 and more. See decision 5.
 */
export interface Tolerance {
  /** Of all logits together. */
  relativeRms: number;
  /** Of one log-probability, or one logit where only some are known. */
  logprob: number;
  /**
   * Of lossy formats: the least share of golden ids that all answers together must reproduce. Where it is given, an
   * answer does not fail for its ids, and there are no near ties.
   */
  greedyShare?: number;
  /** Of lossy formats: how many fewer answers than the golden ones, of all, may equal the right one. */
  exactMatchLoss?: number;
}

// Log-probabilities of a golden file are rounded to 1e-5.
export const exact: Tolerance = { relativeRms: 1e-4, logprob: 2e-4 };
const half: Tolerance = { relativeRms: 1e-2, logprob: 4e-2 };
const brain: Tolerance = { relativeRms: 1e-1, logprob: 4e-1 };

/** The tolerance of the coarsest of these formats. */
export function toleranceOf(formats: readonly string[]): Tolerance {
  if (formats.includes("bf16")) return brain;
  return formats.includes("f16") ? half : exact;
}
