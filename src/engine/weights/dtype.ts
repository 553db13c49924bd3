/**
 * The three number formats of checkpoints and the way between them and float32.
 * Little-endian throughout, as safetensors and WebGPU are. NaN stays NaN, its payload may change.
 */

export type StoredDtype = "F32" | "F16" | "BF16";

export const DTYPE_BYTES: Readonly<Record<StoredDtype, number>> = { F32: 4, F16: 2, BF16: 2 };

export function isStoredDtype(name: string): name is StoredDtype {
  return Object.hasOwn(DTYPE_BYTES, name);
}

/** bfloat16 is the upper half of a float32: exact. */
export function bf16ToF32(source: Uint16Array): Float32Array {
  const bits = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) bits[i] = source[i] << 16;
  return new Float32Array(bits.buffer);
}

/** Rounds to nearest, ties to even; too large becomes infinity. */
export function f32ToBf16(source: Float32Array): Uint16Array {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  const target = new Uint16Array(source.length);
  for (let i = 0; i < bits.length; i++) target[i] = roundToBf16(bits[i]);
  return target;
}

function roundToBf16(bits: number): number {
  const upper = bits >>> 16;
  // Rounding could carry a NaN into infinity; the quiet bit keeps it a NaN.
  if ((bits & 0x7fffffff) > 0x7f800000) return upper | 0x40;
  return (bits + 0x7fff + (upper & 1)) >>> 16;
}

/** Exact, subnormals included. */
export function f16ToF32(source: Uint16Array): Float32Array {
  return new Float32Array(new Float16Array(source.buffer, source.byteOffset, source.length));
}

/** Rounds to nearest, ties to even; from 65520 on it becomes infinity. */
export function f32ToF16(source: Float32Array): Uint16Array {
  return new Uint16Array(new Float16Array(source).buffer);
}

/** Stored bytes as float32 values. `bytes` must start at an offset that its dtype divides; F32 is not copied. */
export function toF32(bytes: Uint8Array, dtype: StoredDtype): Float32Array {
  const length = bytes.byteLength / DTYPE_BYTES[dtype];
  switch (dtype) {
    case "F32":
      return new Float32Array(bytes.buffer, bytes.byteOffset, length);
    case "F16":
      return f16ToF32(new Uint16Array(bytes.buffer, bytes.byteOffset, length));
    case "BF16":
      return bf16ToF32(new Uint16Array(bytes.buffer, bytes.byteOffset, length));
  }
}
