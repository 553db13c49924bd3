/** Random matrices of any format, with what their elements are worth. */
import type { Gpu } from "../../src/gpu/gpu.ts";
import type { Dtype, Tensor } from "../../src/gpu/tensor.ts";
import { normals, rounded, type Tolerance, upload, uploadQuantized } from "./gpu.ts";

export interface RandomWeight {
  tensor: Tensor;
  /** As stored, in float64. */
  values: Float64Array;
}

/** [outputs, inputs], of size inputs^-0.5; `group` inputs share a scale where the format has scales. */
export function randomWeight(
  gpu: Gpu,
  shape: [outputs: number, inputs: number],
  { seed, dtype, group = 32 }: { seed: number; dtype: Dtype; group?: number },
): RandomWeight {
  const [outputs, inputs] = shape;
  const count = outputs * inputs;
  if (dtype !== "i8" && dtype !== "i4") {
    const values = rounded(normals(seed, count, inputs ** -0.5), dtype);
    return { tensor: upload(gpu, "weight", shape, values, dtype), values };
  }
  // Every integer of the format, scales of either sign.
  const range = dtype === "i8" ? 256 : 16;
  const integers = Int8Array.from({ length: count }, (_, i) => ((i * 37 + (i >> 5)) % range) - range / 2);
  const scales = rounded(normals(seed, count / group, (4 * inputs ** -0.5) / range), "f16");
  return {
    tensor: uploadQuantized(gpu, "weight", shape, { values: integers, scales, dtype }),
    values: Float64Array.from(integers, (value, i) => value * scales[Math.floor(i / group)]),
  };
}

/**
 * Of products for few tokens: lanes add items, then a few dozen lane sums; a norm's factor errs by a few 2^-24 more. With
 * i8 and i4 the inputs too are rounded: by 2^-17 of the largest of 32 in the mean, of normal numbers two to three times that.
 */
export function productTolerance(dtype: Dtype): Tolerance {
  if (dtype === "i8" || dtype === "i4") return { relativeRms: 3e-5, worst: 1.5e-4 };
  return { relativeRms: 2e-6, worst: 2e-5 };
}
