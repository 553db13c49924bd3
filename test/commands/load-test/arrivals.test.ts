import { describe, expect, test } from "bun:test";
import { planArrivals } from "../../../src/commands/load-test/arrivals.ts";
import { Random } from "../../../src/commands/load-test/random.ts";

const plan = (count: number, requestRate: number, burstiness: number, seed = 0) =>
  planArrivals(count, { requestRate, burstiness }, new Random(seed, "arrivals"));

function moments(values: readonly number[]) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return { mean, variance };
}

describe("arrivals", () => {
  test("without a rate are all at once", () => {
    expect(plan(3, Infinity, 1)).toEqual([0, 0, 0]);
  });

  test("of infinite burstiness are evenly spaced, the last at count / rate", () => {
    expect(plan(4, 8, Infinity)).toEqual([125, 250, 375, 500]);
  });

  test.each([0.2, 1, 3])("of burstiness %p ascend, and end at count / rate", (burstiness) => {
    const times = plan(50, 10, burstiness);
    expect(times.every((time, index) => time >= (times[index - 1] ?? 0))).toBe(true);
    expect(times[49]).toBeCloseTo(5000, 6);
    expect(times).not.toEqual(plan(50, 10, burstiness, 1));
    expect(times).toEqual(plan(50, 10, burstiness));
  });

  // The squared coefficient of variation of gamma distributed intervals is 1 / shape.
  test.each([0.25, 1, 4])("vary as burstiness %p says", (burstiness) => {
    const times = plan(20_000, 100, burstiness);
    const { mean, variance } = moments(times.map((time, index) => time - (times[index - 1] ?? 0)));
    expect(mean).toBeCloseTo(10, 6);
    expect((variance / mean ** 2) * burstiness).toBeGreaterThan(0.9);
    expect((variance / mean ** 2) * burstiness).toBeLessThan(1.1);
  });
});

describe("random numbers", () => {
  test("are the same for a seed and stream, and others for another", () => {
    const draw = (seed: number, stream: string) => {
      const random = new Random(seed, stream);
      return [random.uniform(), random.uniform(), random.uniform()];
    };
    expect(draw(1, "a")).toEqual(draw(1, "a"));
    expect(draw(1, "a")).not.toEqual(draw(1, "b"));
    expect(draw(1, "a")).not.toEqual(draw(2, "a"));
    expect(draw(1, "a")).not.toEqual(draw(1 + 2 ** 32, "a"));
  });

  test("are uniform: moments and the ends of whole numbers", () => {
    const random = new Random(3, "test");
    const { mean, variance } = moments(Array.from({ length: 20_000 }, () => random.uniform()));
    expect(Math.abs(mean - 1 / 2)).toBeLessThan(0.01);
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(0.003);
    const seen = new Set(Array.from({ length: 200 }, () => random.integer(5, 8)));
    expect([...seen].sort()).toEqual([5, 6, 7, 8]);
  });

  test.each([0.3, 1, 7.5])("of gamma with shape %p have it as mean and variance", (shape) => {
    const random = new Random(4, "test");
    const { mean, variance } = moments(Array.from({ length: 50_000 }, () => random.gamma(shape)));
    expect(Math.abs(mean / shape - 1)).toBeLessThan(0.03);
    expect(Math.abs(variance / shape - 1)).toBeLessThan(0.08);
  });
});
