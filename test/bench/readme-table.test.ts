import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { timesTable, withTable } from "../../bench/readme-table.ts";
import { project } from "../support/shared.ts";

const engine = { date: "2026-11-24", adapter: "A", model: "m", case: "decode", unit: "tok/s" };
const kernel = { date: "2026-11-24", adapter: "A", case: "gemm", gbPerSecond: 12.345, tflops: 0.5 };

test("a case has one row an adapter, the newest", () => {
  const lines = [
    { ...engine, value: 1 },
    { ...engine, adapter: "B", value: 2 },
    { ...engine, value: 1234.5 },
    { ...engine, quantization: "int4", value: 3.456 },
    { ...kernel, microseconds: 9.87654, streamShare: 0.5 },
  ];
  expect(timesTable(lines.map((line) => JSON.stringify(line)).join("\n")).split("\n")).toEqual([
    "On A:",
    "",
    "| model | case | measured |",
    "|---|---|---|",
    "| m | decode | 1,235 tok/s |",
    "| m, int4 | decode | 3.46 tok/s |",
    "",
    "| kernel | us | GB/s | TFLOP/s | of streaming bandwidth |",
    "|---|---|---|---|---|",
    "| gemm | 9.88 | 12.3 | 0.5 | 50 % |",
    "",
    "On B:",
    "",
    "| model | case | measured |",
    "|---|---|---|",
    "| m | decode | 2 tok/s |",
  ]);
});

test("kernels beside other loops: a row a kernel, of its newest shapes, with the farthest from the best loop", () => {
  const line = {
    date: "2026-11-24",
    adapter: "A",
    cpuMicroseconds: 12.345,
    bestLoop: "kernel",
    loopShare: 1,
  };
  const lines = [
    { ...line, case: "add 1x256", bestLoop: "old", loopShare: 0.1 },
    { ...line, case: "add 1x256", bestLoop: "64 lanes", loopShare: 0.871 },
    { ...line, case: "add 32x256", loopShare: 0.9 },
    { ...line, case: "sample 1x8192" },
  ];
  expect(timesTable(lines.map((one) => JSON.stringify(one)).join("\n")).split("\n")).toEqual([
    "On A:",
    "",
    "| kernel | shapes | of the best loop's speed | farthest from it, CPU time | best loop there |",
    "|---|---|---|---|---|",
    "| add | 2 | 87 % to 90 % | add 1x256, 12.3 us | 64 lanes |",
    "| sample | 1 | 100 % | sample 1x8192, 12.3 us | kernel |",
  ]);
});

test("the README's table is that of the history", () => {
  const readme = readFileSync(project("README.md"), "utf8");
  const history = readFileSync(project("bench/history.ndjson"), "utf8");
  expect(withTable(readme, history)).toBe(readme);
});
