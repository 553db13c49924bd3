import { describe, expect, test } from "bun:test";
import { quantize, type QuantizedDtype, type QuantizedRows } from "../../../src/engine/weights/quantize.ts";
import { normals } from "../../support/gpu.ts";

/** The integers as the kernels read them. */
function integers({ values }: QuantizedRows, dtype: QuantizedDtype): number[] {
  if (dtype === "i8") return [...new Int8Array(values.buffer)];
  return [...values].flatMap((byte) => [(byte & 15) - 8, (byte >> 4) - 8]);
}

function worth(rounded: QuantizedRows, dtype: QuantizedDtype, group: number): number[] {
  return integers(rounded, dtype).map((integer, i) => integer * rounded.scales[Math.floor(i / group)]);
}

function relativeRms(actual: readonly number[], expected: Float32Array): number {
  const squares = (value: (i: number) => number) => expected.reduce((sum, _, i) => sum + value(i) ** 2, 0);
  return Math.sqrt(squares((i) => actual[i] - expected[i]) / squares((i) => expected[i]));
}

const weights = Float32Array.from(normals(1, 64 * 64, 0.05));

describe("8 bits", () => {
  test("each weight is met within half a step of its group, the largest exactly where f16 can", () => {
    for (const group of [32, 64]) {
      const rounded = quantize(weights, "i8", group);
      worth(rounded, "i8", group).forEach((value, i) => {
        const step = rounded.scales[Math.floor(i / group)];
        // The scale is rounded to 11 bits, so the largest may lie a sixteenth of a step beyond the last integer.
        expect(Math.abs(value - weights[i])).toBeLessThanOrEqual(step * (0.5 + 127 * 2 ** -11));
      });
    }
    const powers = Float32Array.from({ length: 32 }, (_, i) => (i - 15) * 2 ** -9);
    powers[0] = 127 * 2 ** -9;
    expect(worth(quantize(powers, "i8", 32), "i8", 32)).toEqual([...powers]);
  });

  test("the integers are symmetric: -128 is not used", () => {
    const negative = Float32Array.from({ length: 32 }, (_, i) => -1 - i / 1000);
    const found = integers(quantize(negative, "i8", 32), "i8");
    expect(Math.min(...found)).toBe(-127);
  });
});

describe("4 bits", () => {
  // Of normal numbers a group's largest is 2.4 of their deviation (32) or 2.65 (64): an eighth of that is a step, and
  // a step's rounding error is its 12th root: 8.7 % and 9.6 %. Searching the scale takes some of it away.
  test.each([
    [32, 0.087],
    [64, 0.096],
  ])("in groups of %d the error is below that of plain rounding", (group, plain) => {
    const found = relativeRms(worth(quantize(weights, "i4", group), "i4", group), weights);
    expect(found).toBeLessThan(0.96 * plain);
    expect(found).toBeGreaterThan(0.5 * plain);
  });

  test("no scale of a fine grid is better by more than two hundredths of the error", () => {
    const found = relativeRms(worth(quantize(weights, "i4", 32), "i4", 32), weights);
    let squares = 0;
    for (let group = 0; group < weights.length; group += 32) {
      const members = weights.subarray(group, group + 32);
      const most = members.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      const errors = Array.from({ length: 800 }, (_, i) => {
        const scale = ((i < 400 ? 1 : -1) * most) / (5 + (i % 400) / 100);
        return members.reduce((sum, value) => {
          const integer = Math.max(-8, Math.min(Math.round(value / scale), 7));
          return sum + (value - integer * scale) ** 2;
        }, 0);
      });
      squares += Math.min(...errors);
    }
    const best = Math.sqrt(squares / weights.reduce((sum, value) => sum + value * value, 0));
    expect(found / best).toBeLessThan(1.02);
  });

  test("element j of a word is nibble j, stored plus 8", () => {
    const row = Float32Array.from({ length: 32 }, (_, i) => (i % 16) - 8);
    const { values, scales } = quantize(row, "i4", 32);
    expect(scales[0]).toBe(1);
    expect([...new Uint32Array(values.buffer)].slice(0, 2)).toEqual([0x76543210, 0xfedcba98]);
  });
});

describe("both", () => {
  test.each(["i8", "i4"] as const)(
    "%s: zeros stay zeros, and a group does not touch its neighbours",
    (dtype) => {
      const row = new Float32Array(96);
      row.set(weights.subarray(0, 32), 32);
      const rounded = quantize(row, dtype, 32);
      const found = worth(rounded, dtype, 32);
      expect([...found.slice(0, 32), ...found.slice(64)].every((value) => value === 0)).toBe(true);
      expect(found.slice(32, 64)).toEqual(worth(quantize(weights.subarray(0, 32), dtype, 32), dtype, 32));
    },
  );

  test.each(["i8", "i4"] as const)("%s: what is not finite or beyond f16 scales is refused", (dtype) => {
    for (const wrong of [NaN, Infinity, -Infinity, 1e8]) {
      const row = new Float32Array(32);
      row[7] = wrong;
      expect(() => quantize(row, dtype, 32)).toThrow(RangeError);
    }
    expect(() => quantize(new Float32Array(32).fill(3e5), dtype, 32)).not.toThrow();
  });
});
