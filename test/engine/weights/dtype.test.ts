import { describe, expect, test } from "bun:test";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, toF32 } from "../../../src/engine/weights/dtype.ts";

const ALL_PATTERNS = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** Value of a binary format with an implicit leading one, from its definition. */
function decode(bits: number, exponentBits: number, mantissaBits: number): number {
  const sign = bits >> (exponentBits + mantissaBits) === 1 ? -1 : 1;
  const exponentMax = 2 ** exponentBits - 1;
  const exponent = (bits >> mantissaBits) & exponentMax;
  const fraction = (bits & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === exponentMax) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias);
  return sign * (1 + fraction) * 2 ** (exponent - bias);
}

const FORMATS = [
  { name: "bfloat16", exponentBits: 8, mantissaBits: 7, widen: bf16ToF32, narrow: f32ToBf16 },
  { name: "float16", exponentBits: 5, mantissaBits: 10, widen: f16ToF32, narrow: f32ToF16 },
] as const;

/** Nearest float32 values below and above a positive finite one. */
function neighbours(value: number): [number, number] {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0];
  const [below, above] = new Float32Array(Uint32Array.of(bits - 1, bits + 1).buffer);
  return [below, above];
}

describe("number formats", () => {
  for (const { name, exponentBits, mantissaBits, widen, narrow } of FORMATS) {
    test(`${name}: every pattern widens to the value that its definition gives`, () => {
      const expected = Float64Array.from(ALL_PATTERNS, (bits) => decode(bits, exponentBits, mantissaBits));
      const wrong = [...widen(ALL_PATTERNS)].findIndex((value, i) => !Object.is(value, expected[i]));
      expect(wrong).toBe(-1);
    });

    test(`${name}: every pattern comes back from float32, NaN as a NaN`, () => {
      const back = narrow(widen(ALL_PATTERNS));
      const isNan = (bits: number) => Number.isNaN(decode(bits, exponentBits, mantissaBits));
      const wrong = ALL_PATTERNS.findIndex((bits, i) => (isNan(bits) ? !isNan(back[i]) : back[i] !== bits));
      expect(wrong).toBe(-1);
    });

    test(`${name}: half way rounds to even, a hair off to the nearer, for every positive step`, () => {
      const infinity = (2 ** exponentBits - 1) << mantissaBits;
      const wrong: number[] = [];
      for (let bits = 0; bits < infinity - 1; bits++) {
        const low = decode(bits, exponentBits, mantissaBits);
        const middle = (low + decode(bits + 1, exponentBits, mantissaBits)) / 2;
        const source = Float32Array.of(middle, ...neighbours(middle), -middle);
        const even = bits % 2 === 0 ? bits : bits + 1;
        const expected = [even, bits, bits + 1, even + 0x8000];
        if (narrow(source).some((found, i) => found !== expected[i])) wrong.push(bits);
      }
      expect(wrong).toEqual([]);
    });
  }

  test("what is too large for the format becomes infinity", () => {
    expect([...f32ToF16(Float32Array.of(65519.99, 65520, -1e30))]).toEqual([0x7bff, 0x7c00, 0xfc00]);
    const largest = new Float32Array(Uint32Array.of(0x7f7fffff).buffer);
    expect([...f32ToBf16(largest)]).toEqual([0x7f80]);
  });

  test("bytes of each dtype become the same floats, at an offset too", () => {
    const values = Float32Array.of(1, -2.5, 0.15625);
    const stored = { F32: values, F16: f32ToF16(values), BF16: f32ToBf16(values) } as const;
    for (const dtype of ["F32", "F16", "BF16"] as const) {
      const source = stored[dtype];
      const bytes = new Uint8Array(source.byteLength + 8);
      bytes.set(new Uint8Array(source.buffer), 8);
      expect([...toF32(bytes.subarray(8), dtype)]).toEqual([...values]);
    }
  });
});
