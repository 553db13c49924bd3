/**
 * Rounds matrices to integers with a shared factor for each group of elements that follow each other in a row:
 * w = integer * scale, without an offset. Pure; the layout is that of `Dtype` i8 and i4.
 */

export type QuantizedDtype = "i8" | "i4";

/** What a group's largest weight becomes, or about. */
export const QUANTIZED_LARGEST: Readonly<Record<QuantizedDtype, number>> = { i8: 127, i4: 8 };

/** To be raised when the same weights would come out as other bits: it is part of the cache's key. */
export const QUANTIZER_VERSION = 1;

export interface QuantizedRows {
  /** Elements as they lie on the device. */
  values: Uint8Array<ArrayBuffer>;
  /** One a group. */
  scales: Float16Array<ArrayBuffer>;
}

/** Every candidate of a scale is an f16. */
const weightMax = 6 * 65504;

/** `weights` holds whole groups. Throws RangeError for a weight that is not finite or beyond what f16 scales hold. */
export function quantize(weights: Float32Array, dtype: QuantizedDtype, group: number): QuantizedRows {
  const scales = new Float16Array(weights.length / group);
  const values = new Uint8Array(dtype === "i8" ? weights.length : weights.length / 2);
  for (let index = 0; index < scales.length; index++) {
    const members = weights.subarray(index * group, (index + 1) * group);
    const largest = largestOf(members);
    if (!(Math.abs(largest) <= weightMax))
      throw new RangeError(`expected at most ${weightMax}, got ${largest}`);
    const scale =
      dtype === "i8" ? Math.f16round(Math.abs(largest) / QUANTIZED_LARGEST.i8) : bestScale(members, largest);
    scales[index] = scale;
    if (dtype === "i8") putBytes(members, scale, values.subarray(index * group));
    else putNibbles(members, scale, values.subarray((index * group) / 2));
  }
  return { values, scales };
}

/** The element farthest from zero, with its sign; NaN if one is NaN. */
function largestOf(members: Float32Array): number {
  let largest = 0;
  for (let i = 0; i < members.length; i++) {
    const value = members[i];
    if (Number.isNaN(value)) return NaN;
    if (Math.abs(value) > Math.abs(largest)) largest = value;
  }
  return largest;
}

function putBytes(members: Float32Array, scale: number, target: Uint8Array): void {
  const inverse = scale === 0 ? 0 : 1 / scale;
  for (let i = 0; i < members.length; i++) {
    // A scale that was rounded down puts the largest beyond the format.
    const up = members[i] * inverse + 127.5;
    target[i] = (up < 0 ? 0 : up > 254 ? 254 : up | 0) - 127;
  }
}

function putNibbles(members: Float32Array, scale: number, target: Uint8Array): void {
  const inverse = scale === 0 ? 0 : 1 / scale;
  for (let i = 0; i < members.length; i += 2) {
    target[i / 2] = nibble(members[i] * inverse) | (nibble(members[i + 1] * inverse) << 4);
  }
}

/** The nearest of -8...7, plus 8. */
function nibble(value: number): number {
  const up = value + 8.5;
  if (up < 0) return 0;
  return up > 15 ? 15 : up | 0;
}

/**
 * Where the largest element of a group of four bits is put. The format reaches one further below zero than above, so the
 * scale takes the sign that puts it there; at 8 it is met exactly, below it is cut off to the good of all others.
 */
const largestAt = [8.6, 8.2, 7.8, 7.4, 7, 6.6, 6.2];

/** The scale of least squared error among candidates and the best one's refit to the integers it gives. */
function bestScale(members: Float32Array, largest: number): number {
  if (largest === 0) return 0;
  let [best, leastError] = [0, Infinity];
  for (const place of largestAt) {
    const scale = Math.f16round(-largest / place);
    const error = squaredError(members, scale);
    if (error < leastError) [best, leastError] = [scale, error];
  }
  const refitted = Math.f16round(refit(members, best));
  return squaredError(members, refitted) < leastError ? refitted : best;
}

function squaredError(members: Float32Array, scale: number): number {
  const inverse = scale === 0 ? 0 : 1 / scale;
  let sum = 0;
  for (let i = 0; i < members.length; i++) {
    const error = members[i] - scale * (nibble(members[i] * inverse) - 8);
    sum += error * error;
  }
  return sum;
}

/** The factor of least squared error for the integers that `scale` gives: a linear regression. */
function refit(members: Float32Array, scale: number): number {
  let [products, squares] = [0, 0];
  for (let i = 0; i < members.length; i++) {
    const integer = nibble(members[i] / scale) - 8;
    products += members[i] * integer;
    squares += integer * integer;
  }
  return products / squares;
}
