/**
 * Writes the README's table of times out of bench/history.ndjson: of each case the newest line of each adapter.
 *
 *   bun bench/readme-table.ts          rewrites what stands between the two marks in README.md
 *   bun bench/readme-table.ts --check  fails if that would change anything (a test does the same)
 */
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { z } from "zod";

const marks = ["<!-- times: begin -->", "<!-- times: end -->"] as const;

/** A line of `prelude bench engine --record`, or of anything else with a value. */
const valueLine = z.object({
  date: z.string(),
  adapter: z.string(),
  model: z.string(),
  case: z.string(),
  value: z.number(),
  unit: z.string(),
  dtype: z.string().optional(),
  kvDtype: z.string().optional(),
  quantization: z.string().nullable().optional(),
});

/** A line of `bench/kernels.ts --record`. */
const kernelLine = z.object({
  date: z.string(),
  adapter: z.string(),
  case: z.string(),
  microseconds: z.number(),
  gbPerSecond: z.number(),
  tflops: z.number(),
  streamShare: z.number(),
});

/** A line of `bench/cpu-kernels.ts --record`. */
const loopLine = z.object({
  date: z.string(),
  adapter: z.string(),
  case: z.string(),
  cpuMicroseconds: z.number(),
  bestLoop: z.string(),
  loopShare: z.number(),
});

type LoopLine = z.output<typeof loopLine>;
type ValueLine = z.output<typeof valueLine>;
type KernelLine = z.output<typeof kernelLine>;
type Row = readonly string[];

/** The tables' text for the lines of a history: up to three for each adapter, of values, of kernels, and of these beside other loops. */
export function timesTable(history: string): string {
  const lines = history
    .trim()
    .split("\n")
    .map((line): unknown => JSON.parse(line));
  const values = lines.flatMap((line) => valueLine.safeParse(line).data ?? []);
  const kernels = lines.flatMap((line) => kernelLine.safeParse(line).data ?? []);
  const loops = lines.flatMap((line) => loopLine.safeParse(line).data ?? []);
  const adapters = new Set([...values, ...kernels, ...loops].map(({ adapter }) => adapter));
  return [...adapters]
    .map((adapter) => {
      const isOnIt = (line: { adapter: string }) => line.adapter === adapter;
      const tables = adapterTables(adapter, values.filter(isOnIt), kernels.filter(isOnIt));
      return [tables, ...loopTable(loops.filter(isOnIt))].join("\n");
    })
    .join("\n\n");
}

function adapterTables(
  adapter: string,
  values: readonly ValueLine[],
  kernels: readonly KernelLine[],
): string {
  const rows = newest(values, (line) => [modelOf(line), line.case].join("|")).map(toValueRow);
  const kernelRows = newest(kernels, (line) => line.case).map(toKernelRow);
  return [
    `On ${adapter}:`,
    ...(rows.length > 0 ? ["", ...table(["model", "case", "measured"], rows)] : []),
    ...(kernelRows.length > 0
      ? ["", ...table(["kernel", "us", "GB/s", "TFLOP/s", "of streaming bandwidth"], kernelRows)]
      : []),
  ].join("\n");
}

/** A row a kernel: how near its shapes come to the best loops found, and which of them is the farthest. */
function loopTable(lines: readonly LoopLine[]): string[] {
  const kernels = Map.groupBy(
    newest(lines, (line) => line.case),
    (line) => line.case.split(" ")[0],
  );
  const rows = [...kernels].map(([kernel, shapes]) => {
    const [farthest] = shapes.toSorted((a, b) => a.loopShare - b.loopShare);
    const nearest = Math.max(...shapes.map(({ loopShare }) => loopShare));
    const [from, to] = [farthest.loopShare, nearest].map((share) => `${Math.round(100 * share)} %`);
    const share = from === to ? to : `${from} to ${to}`;
    const { case: name, cpuMicroseconds, bestLoop } = farthest;
    return [kernel, String(shapes.length), share, `${name}, ${digits(cpuMicroseconds)} us`, bestLoop];
  });
  if (rows.length === 0) return [];
  return [
    "",
    ...table(
      ["kernel", "shapes", "of the best loop's speed", "farthest from it, CPU time", "best loop there"],
      rows,
    ),
  ];
}

function modelOf({ model, quantization }: ValueLine): string {
  return quantization && quantization !== "none" ? `${model}, ${quantization}` : model;
}

function toValueRow(line: ValueLine): Row {
  return [modelOf(line), line.case, `${digits(line.value)} ${line.unit}`];
}

/** What nobody counted (attention's work is known on the device alone) stays empty. */
function toKernelRow({ case: name, microseconds, gbPerSecond, tflops, streamShare }: KernelLine): Row {
  const isCounted = tflops > 0;
  const counted = [digits(gbPerSecond), digits(tflops), `${digits(100 * streamShare)} %`];
  return [name, digits(microseconds), ...counted.map((cell) => (isCounted ? cell : ""))];
}

/** The last of the lines of each key, in the order in which keys first came. */
function newest<T>(lines: readonly T[], keyOf: (line: T) => string): T[] {
  const found = new Map<string, T>();
  for (const line of lines) found.set(keyOf(line), line);
  return [...found.values()];
}

function table(head: Row, rows: readonly Row[]): string[] {
  const line = (cells: Row) => `| ${cells.join(" | ")} |`;
  return [line(head), `|${"---|".repeat(head.length)}`, ...rows.map(line)];
}

/** Three digits that count; thousands apart. */
function digits(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

/** A README with its table made anew. Throws when the marks are not there. */
export function withTable(readme: string, history: string): string {
  const [begin, end] = marks.map((mark) => readme.indexOf(mark));
  if (begin < 0 || end < begin)
    throw new Error(`Cannot write the table: expected ${marks.join(" and ")} in README.md`);
  return `${readme.slice(0, begin + marks[0].length)}\n\n${timesTable(history)}\n\n${readme.slice(end)}`;
}

if (import.meta.main) {
  const file = fileURLToPath(new URL("../README.md", import.meta.url));
  const readme = readFileSync(file, "utf8");
  const fresh = withTable(readme, readFileSync(new URL("history.ndjson", import.meta.url), "utf8"));
  if (process.argv.includes("--check")) process.exitCode = fresh === readme ? 0 : 1;
  else writeFileSync(file, fresh);
}
