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

test("the README's table is that of the history", () => {
  const readme = readFileSync(project("README.md"), "utf8");
  const history = readFileSync(project("bench/history.ndjson"), "utf8");
  expect(withTable(readme, history)).toBe(readme);
});
