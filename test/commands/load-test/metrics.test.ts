import { describe, expect, test } from "bun:test";
import type { Outcome } from "../../../src/commands/load-test/client.ts";
import {
  type Completed,
  describeValues,
  type Measurement,
  summarise,
  tpotMs,
} from "../../../src/commands/load-test/metrics.ts";

const completed = (values: Partial<Completed>): Completed => ({
  type: "completed",
  sentMs: 0,
  ttftMs: 100,
  itlMs: [],
  latencyMs: 100,
  promptTokens: 10,
  outputTokens: 1,
  isCounted: true,
  ...values,
});

const measured = (outcome: Outcome, queueMs = 0): Measurement => ({ outcome, queueMs });

const options = { durationMs: 4000, objectives: {}, percentages: [99] };

/** Three that were answered, one that was not, and one that we ended. */
const measurements = [
  measured(completed({ sentMs: 5000, ttftMs: 100, itlMs: [20, 40], latencyMs: 160, outputTokens: 3 })),
  measured(completed({ sentMs: 5100, ttftMs: 300, latencyMs: 300, promptTokens: 20 }), 50),
  measured(completed({ sentMs: 6160, ttftMs: 200, itlMs: [60], latencyMs: 260, outputTokens: 4 }), 100),
  measured({ type: "failed", sentMs: 5200, error: "HTTP 500: broken" }, 1000),
  measured({ type: "cancelled", sentMs: 5300 }, 1000),
];

describe("a summary", () => {
  test("counts requests and tokens, over the duration", () => {
    expect(summarise(measurements, options)).toMatchObject({
      completed: 3,
      failed: 1,
      cancelled: 1,
      durationSeconds: 4,
      inputTokens: 40,
      outputTokens: 8,
      requestsPerSecond: 0.75,
      outputTokensPerSecond: 2,
      totalTokensPerSecond: 12,
    });
  });

  test("has the times of what was answered", () => {
    const { ttftMs, tpotMs, itlMs, e2elMs, queueMs } = summarise(measurements, options);
    // 100, 200, 300: 99 % lies 0.98 of the way from the second to the third.
    expect(ttftMs).toMatchObject({ mean: 200, median: 200 });
    expect(ttftMs?.standardDeviation).toBeCloseTo(Math.sqrt(20_000 / 3), 9);
    expect(ttftMs?.percentiles[0][1]).toBeCloseTo(298, 9);
    // (160 - 100) / 2 and (260 - 200) / 3; an answer of one token has none.
    expect(tpotMs).toMatchObject({ mean: 25, median: 25 });
    // 20, 40 and 60 of two requests, pooled.
    expect(itlMs).toMatchObject({ mean: 40, median: 40 });
    expect(e2elMs).toMatchObject({ mean: 240, median: 260 });
    expect(queueMs).toMatchObject({ mean: 50, median: 50 });
  });

  test("has the most tokens of a second and the most requests at once", () => {
    // From the first request at 5000: chunks at 100, 120, 160, 400, then 1360 and 1420.
    const { outputTokensPerSecondMax, concurrentRequestsMax } = summarise(measurements, options);
    expect([outputTokensPerSecondMax, concurrentRequestsMax]).toEqual([4, 2]);
  });

  test("does not count as concurrent a request that begins as another ends", () => {
    const others = [
      measured(completed({ sentMs: 0, latencyMs: 100 })),
      measured(completed({ sentMs: 100, latencyMs: 100 })),
    ];
    expect(summarise(others, options).concurrentRequestsMax).toBe(1);
  });

  test("of nothing has no statistics", () => {
    expect(summarise([], { ...options, durationMs: 0, objectives: { ttft: 1 } })).toMatchObject({
      completed: 0,
      requestsPerSecond: 0,
      goodRequestsPerSecond: 0,
      outputTokensPerSecondMax: 0,
      concurrentRequestsMax: 0,
      ttftMs: null,
      tpotMs: null,
      itlMs: null,
      e2elMs: null,
    });
  });
});

describe("goodput", () => {
  const goodWith = (objectives: object) =>
    summarise(measurements, { ...options, durationMs: 1000, objectives }).goodRequestsPerSecond;

  test("is of the requests that meet every objective, at the limit included", () => {
    expect(goodWith({ ttft: 200 })).toBe(2);
    expect(goodWith({ ttft: 199 })).toBe(1);
    expect(goodWith({ e2el: 260 })).toBe(2);
    expect(goodWith({ ttft: 200, e2el: 200 })).toBe(1);
    expect(goodWith({ ttft: 1000, tpot: 20, e2el: 259 })).toBe(0);
  });

  test("takes the time per token of a one-token answer for 0", () => {
    expect(goodWith({ tpot: 20 })).toBe(2);
    expect(goodWith({ tpot: 19 })).toBe(1);
  });

  test("is nothing without an objective", () => {
    expect(goodWith({})).toBeNull();
  });
});

test("the time per output token leaves out the first", () => {
  expect(tpotMs(completed({ ttftMs: 50, latencyMs: 250, outputTokens: 11 }))).toBe(20);
  expect(tpotMs(completed({ outputTokens: 1 }))).toBeNull();
  expect(tpotMs(completed({ outputTokens: 0 }))).toBeNull();
});

test("percentiles lie between the nearest values, as numpy's", () => {
  const { percentiles, median } = describeValues([4, 1, 3, 2], [0, 25, 50, 90, 100])!;
  expect(percentiles).toEqual([
    [0, 1],
    [25, 1.75],
    [50, 2.5],
    [90, 3.7],
    [100, 4],
  ]);
  expect(median).toBe(2.5);
});
