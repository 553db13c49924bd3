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
    "| adapter | model | case | measured |",
    "|---|---|---|---|",
    "| A | m | decode | 1,235 tok/s |",
    "| B | m | decode | 2 tok/s |",
    "| A | m, int4 | decode | 3.46 tok/s |",
    "",
    "| adapter | kernel | us | GB/s | TFLOP/s | of streaming bandwidth |",
    "|---|---|---|---|---|---|",
    "| A | gemm | 9.88 | 12.3 | 0.5 | 50 % |",
  ]);
});

test("the README's table is that of the history", () => {
  const readme = readFileSync(project("README.md"), "utf8");
  const history = readFileSync(project("bench/history.ndjson"), "utf8");
  expect(withTable(readme, history)).toBe(readme);
});
