import { describe, expect, test } from "bun:test";
import type { Outcome } from "../../../src/commands/load-test/client.ts";
import { type Measurement, summarise } from "../../../src/commands/load-test/metrics.ts";
import {
  failureLines,
  type LoadDescription,
  resultJson,
  resultTable,
} from "../../../src/commands/load-test/report.ts";

const load: LoadDescription = {
  model: "m",
  endpoint: "completions",
  promptCount: 3,
  requestRate: 2,
  burstiness: 1,
  concurrencyMax: 4,
  seed: 5,
};

const answered: Outcome = {
  type: "completed",
  sentMs: 2000,
  ttftMs: 100,
  itlMs: [20, 40],
  latencyMs: 160,
  promptTokens: 10,
  outputTokens: 3,
  isCounted: true,
};
const failed: Outcome = { type: "failed", sentMs: 2100, error: "HTTP 429: full" };
const measurements: Measurement[] = [
  { outcome: answered, queueMs: 0 },
  { outcome: failed, queueMs: 7 },
];
const metrics = summarise(measurements, {
  durationMs: 2000,
  objectives: { ttft: 100 },
  percentages: [50, 99],
});

test("the table is vLLM's", () => {
  expect(resultTable(metrics, load)).toBe(`============ Serving Benchmark Result ============
Successful requests:                     1
Failed requests:                         1
Cancelled or not sent:                   1
Maximum request concurrency:             4
Request rate configured (RPS):           2.00
Benchmark duration (s):                  2.00
Total input tokens:                      10
Total generated tokens:                  3
Request throughput (req/s):              0.50
Request goodput (req/s):                 0.50
Output token throughput (tok/s):         1.50
Peak output token throughput (tok/s):    3.00
Peak concurrent requests:                1.00
Total token throughput (tok/s):          6.50
---------------Time to First Token----------------
Mean TTFT (ms):                          100.00
Median TTFT (ms):                        100.00
P50 TTFT (ms):                           100.00
P99 TTFT (ms):                           100.00
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          30.00
Median TPOT (ms):                        30.00
P50 TPOT (ms):                           30.00
P99 TPOT (ms):                           30.00
---------------Inter-token Latency----------------
Mean ITL (ms):                           30.00
Median ITL (ms):                         30.00
P50 ITL (ms):                            30.00
P99 ITL (ms):                            39.80
----------------End-to-end Latency----------------
Mean E2EL (ms):                          160.00
Median E2EL (ms):                        160.00
P50 E2EL (ms):                           160.00
P99 E2EL (ms):                           160.00
---------------Client-side Queueing---------------
Mean Client Queue Time (ms):             0.00
Median Client Queue Time (ms):           0.00
P50 Client Queue Time (ms):              0.00
P99 Client Queue Time (ms):              0.00
==================================================
`);
});

test("the table leaves out what was not asked for, and says nothing of what was not measured", () => {
  const nothing = summarise([], { durationMs: 1000, objectives: {}, percentages: [99] });
  const table = resultTable(nothing, {
    ...load,
    promptCount: 0,
    requestRate: Infinity,
    concurrencyMax: Infinity,
  });
  for (const absent of ["Cancelled", "concurrency:", "RPS", "goodput", "Client", "P99"]) {
    expect(table).not.toContain(absent);
  }
  expect(table).toContain("Mean TTFT (ms):                          -\n");
});

test("JSON has vLLM's names, in seconds unless they say otherwise", () => {
  const json = resultJson(metrics, { load, measurements, endMs: 0 });
  expect(json).toMatchObject({
    date: "1970-01-01T00:00:00.000Z",
    model_id: "m",
    request_rate: 2,
    max_concurrency: 4,
    duration: 2,
    completed: 1,
    failed: 1,
    request_goodput: 0.5,
    total_token_throughput: 6.5,
    mean_ttft_ms: 100,
    std_itl_ms: 10,
    p50_e2el_ms: 160,
    input_lens: [10, 0],
    output_lens: [3, 0],
    ttfts: [0.1, 0],
    itls: [[0.02, 0.04], []],
    latencies: [0.16, 0],
    start_times: [2, 2.1],
    queue_times: [0, 0.007],
    errors: ["", "HTTP 429: full"],
  });
  const unlimited = { ...load, requestRate: Infinity, concurrencyMax: Infinity };
  expect(resultJson(metrics, { load: unlimited, measurements, endMs: 0 })).toMatchObject({
    request_rate: "inf",
    max_concurrency: null,
  });
});

describe("failures", () => {
  test("are none", () => {
    expect(failureLines([{ outcome: answered, queueMs: 0 }])).toEqual([]);
  });

  test("are counted by reason", () => {
    const other: Outcome = { type: "failed", sentMs: 0, error: "HTTP 500: no reason given" };
    expect(
      failureLines([failed, answered, failed, other].map((outcome) => ({ outcome, queueMs: 0 }))),
    ).toEqual(["3 requests failed:", "  2 x HTTP 429: full", "  1 x HTTP 500: no reason given"]);
  });

  test("of many kinds are not all shown", () => {
    const many = Array.from({ length: 13 }, (_, index): Measurement => {
      return { outcome: { type: "failed", sentMs: 0, error: `reason ${index}` }, queueMs: 0 };
    });
    const lines = failureLines(many);
    expect([lines.length, lines[0], lines.at(-1)]).toEqual([
      12,
      "13 requests failed:",
      "  and 3 other errors",
    ]);
  });
});
