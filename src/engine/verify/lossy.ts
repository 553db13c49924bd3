/**
 * How far from float32 an engine may be whose weights, keys or values are rounded to integers.
 *
 * Logits of a reference are held to a bound that is derived, not tuned. In a group of n normal numbers the largest is
 * about sqrt(2 ln 2n) deviations from zero; where that is L steps, a step is that much / L and rounding errs by
 * step / sqrt(12). Errors of different products (four a layer pass, and the head) are independent, so their squares add
 * up; likewise those of keys and values. Layers pass errors on enlarged: transformers in float16 is up to six times as far
 * from float32 as its own roundings add up to (decision 5: 1.9e-2 on tiny-hrm-text, of which twelve passes of about twelve
 * roundings by 2^-11 / sqrt(3) explain 3.4e-3). Logits that are off by as much as they are large tell nothing, so a bound
 * of 1 and more, as 4 bits have on most models, holds the logits to being finite and of a sane size.
 *
 * Greedy ids of golden answers are held to a share of all, since a near tie may fall either way: 99 % in 8 bits, 96 % in
 * 4. Answers that the engine gives of its own are held to the right ones: of all of them, 1 % fewer than the golden ones
 * may be right in 8 bits, 4 % in 4. Whole answers are reproduced less often, for one other id makes another answer,
 * which may be as good; their share is reported (decision 7).
 */
import type { Quantization } from "../weights/quantization.ts";
import { type QuantizedDtype, QUANTIZED_LARGEST } from "../weights/quantize.ts";
import type { Tolerance } from "./tolerance.ts";

export interface LossyFormats {
  quantization: Quantization | null;
  /** Elements of a head whose key or value is rounded to 8 bits, or null. */
  int8KvHeadDim: number | null;
  /** Layer passes of a token. */
  passes: number;
}

const answerBounds = {
  i8: { greedyShare: 0.99, exactMatchLoss: 0.01 },
  i4: { greedyShare: 0.96, exactMatchLoss: 0.04 },
};
const productsPerPass = 4;
const growth = 6;
/** Of logits that have nothing to do with the expected ones, but are of their size. */
const unrelatedRms = Math.SQRT2;

/** `base` where nothing is rounded to integers. */
export function lossyTolerance(base: Tolerance, formats: LossyFormats): Tolerance {
  const { quantization, int8KvHeadDim, passes } = formats;
  if (!quantization && int8KvHeadDim === null) return base;
  const dtype = quantization?.format === "int4" ? "i4" : "i8";
  const squares: number[] = [];
  if (quantization) {
    squares.push(productsPerPass * passes * roundingError(quantization.group, dtype) ** 2);
    squares.push(roundingError(quantization.group, "i8") ** 2); // the head
  }
  if (int8KvHeadDim !== null) squares.push(2 * passes * roundingError(int8KvHeadDim, "i8") ** 2);
  const rounding = growth * Math.sqrt(squares.reduce((sum, square) => sum + square, 0));
  const relativeRms = Math.min(Math.hypot(base.relativeRms, rounding), unrelatedRms);
  return { relativeRms, logprob: Infinity, ...answerBounds[dtype] };
}

/** Relative to the deviation of `count` normal numbers that share a scale. */
function roundingError(count: number, dtype: QuantizedDtype): number {
  return Math.sqrt(2 * Math.log(2 * count)) / (QUANTIZED_LARGEST[dtype] * Math.sqrt(12));
}
