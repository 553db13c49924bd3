import { describe, expect, test } from "bun:test";
import { inverseFrequencies, rotaryTable } from "../../../src/engine/layers/rotary.ts";

describe("rotary table", () => {
  test("default: a geometric series of frequencies", () => {
    // 10000^(-2i/8) = 1, 1/10, 1/100, 1/1000
    const spec = { type: "default", theta: 10_000, rotaryDim: 8 } as const;
    expect(inverseFrequencies(spec)).toEqual(Float32Array.of(1, 0.1, 0.01, 0.001));
    const table = rotaryTable(spec, 4);
    expect(table.length).toBe(32);
    expect([...table.subarray(0, 8)]).toEqual([1, 1, 1, 1, 0, 0, 0, 0]);
    const angles = [3, 0.3, 0.03, 0.003];
    angles.forEach((angle, i) => {
      expect(table[24 + i]).toBeCloseTo(Math.cos(angle), 6);
      expect(table[28 + i]).toBeCloseTo(Math.sin(angle), 6);
    });
  });

  test("angles are rounded to float32 before the cosine, as in the reference", () => {
    const [frequency] = inverseFrequencies({ type: "default", theta: 10_000, rotaryDim: 96 }).subarray(1);
    const table = rotaryTable({ type: "default", theta: 10_000, rotaryDim: 96 }, 30_001);
    const angle = Math.fround(30_000 * frequency);
    expect(angle).not.toBe(30_000 * frequency);
    expect(table[30_000 * 96 + 1]).toBe(Math.fround(Math.cos(angle)));
    expect(table[30_000 * 96 + 49]).toBe(Math.fround(Math.sin(angle)));
  });

  test("linear: every frequency is divided", () => {
    const spec = { type: "linear", theta: 10_000, rotaryDim: 4, factor: 4 } as const;
    expect([...inverseFrequencies(spec)]).toEqual([0.25, Math.fround(0.01) / 4]);
  });

  test("llama3: high frequencies stay, low ones are divided, those between in part", () => {
    // theta 10^4 and 16 channels: frequencies 10^(-i/2), wavelengths 6.283 * 10^(i/2).
    // With 1000 positions and factors 1 and 4 they stay under 250 and are divided by 8 over 1000.
    // 628.32 (i = 4) lies between: smooth = (1000 / 628.3185 - 1) / 3 = 0.1971831,
    // frequency = 0.8028169 * 0.01 / 8 + 0.1971831 * 0.01 = 0.001003521 + 0.001971831 = 0.002975352.
    const frequencies = inverseFrequencies({
      type: "llama3",
      theta: 10_000,
      rotaryDim: 16,
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositions: 1000,
    });
    const expected = [
      1,
      0.3162278,
      0.1,
      0.03162278,
      0.002975352,
      0.003162278 / 8,
      0.000125,
      0.0003162278 / 8,
    ];
    expected.forEach((frequency, i) => expect(frequencies[i] / frequency).toBeCloseTo(1, 6));
  });

  test("names a missing field", () => {
    expect(() => rotaryTable({ type: "linear", theta: 10_000, rotaryDim: 4 }, 1)).toThrow(
      "Cannot make a rotary table of type linear: expected factor, got nothing",
    );
  });
});
