/**
 * Kernel benchmark: time, bandwidth and arithmetic of every case in kernel-cases.ts, its results checked in the same run.
 *
 *   bun bench/kernels.ts [--gpu auto|software|dawn|native] [--checks] [--filter linear] [--json] [--record]
 *
 * `--record` appends a line a case to bench/history.ndjson.
 */
import { appendFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import { type GpuChoice, gpuChoices, openDevice } from "../src/gpu/device/open-device.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { checkedOutputs } from "./check.ts";
import { commit } from "./commit.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { kernelCases } from "./kernel-cases.ts";
import { streamGigabytesPerSecond, medianMicroseconds } from "./stopwatch.ts";

/** A line of bench/history.ndjson. */
interface Measurement {
  date: string;
  commit: string | null;
  adapter: string;
  runtime: string;
  case: string;
  microseconds: number;
  gbPerSecond: number;
  tflops: number;
  /** Share of the bandwidth that a streaming kernel reached on the same device in the same run. */
  streamShare: number;
  checked: true;
}

async function main(): Promise<void> {
  const options = readOptions();
  const gpu = await openDevice({ choice: options.gpu, checks: options.checks });
  const stream = await streamGigabytesPerSecond(gpu);
  const common = {
    date: new Date().toISOString(),
    commit: commit(),
    adapter: gpu.adapterName,
    runtime: `${runtime()} ${gpu.implementation}${options.checks ? " with checks" : ""}`,
  };
  if (!options.json) printHead(gpu, common.runtime, stream);
  for (const kernelCase of selectCases(gpu, options.filter)) {
    const measurement: Measurement = { ...common, ...(await measure(gpu, kernelCase, stream)) };
    console.log(options.json ? JSON.stringify(measurement) : tableRow(measurement));
    if (options.record) {
      appendFileSync(new URL("history.ndjson", import.meta.url), `${JSON.stringify(measurement)}\n`);
    }
  }
  gpu.close();
}

function readOptions(): { gpu: GpuChoice; checks: boolean; filter: string; json: boolean; record: boolean } {
  const { values } = parseArgs({
    options: {
      gpu: { type: "string", default: "auto" },
      checks: { type: "boolean", default: false },
      filter: { type: "string", default: "" },
      json: { type: "boolean", default: false },
      record: { type: "boolean", default: false },
    },
  });
  const gpu = gpuChoices.find((choice) => choice === values.gpu);
  if (!gpu) throw new Error(`Cannot use --gpu ${values.gpu}: expected one of ${gpuChoices.join(", ")}`);
  return { ...values, gpu };
}

function selectCases(gpu: Gpu, filter: string): KernelCase[] {
  const on = gpu.traits.isCpu ? "cpu" : "gpu";
  return kernelCases.filter(
    (kernelCase) =>
      kernelCase.on === on && (kernelCase.needs?.(gpu.traits) ?? true) && kernelCase.name.includes(filter),
  );
}

async function measure(
  gpu: Gpu,
  kernelCase: KernelCase,
  stream: number,
): Promise<Omit<Measurement, "date" | "commit" | "adapter" | "runtime">> {
  const { name } = kernelCase;
  const built = kernelCase.build(gpu);
  const { outputs } = await checkedOutputs(gpu, name, built);
  outputs.restore();
  const [{ bytes, flops }] = built.dispatches;
  const microseconds = await medianMicroseconds(gpu, built.dispatches);
  release(built);
  const gbPerSecond = bytes / microseconds / 1e3;
  return {
    case: name,
    microseconds: round(microseconds),
    gbPerSecond: round(gbPerSecond),
    tflops: round(flops / microseconds / 1e6),
    streamShare: round(gbPerSecond / stream),
    checked: true,
  };
}

function release({ dispatches }: BuiltCase): void {
  const buffers = dispatches.flatMap(({ tensors }) => Object.values(tensors).map(({ buffer }) => buffer.gpu));
  for (const buffer of new Set(buffers)) buffer.destroy();
}

function printHead(gpu: Gpu, on: string, stream: number): void {
  console.log(`${gpu.describe()} (${on})`);
  console.log(`roofline: a kernel that adds two large tensors moves ${stream.toFixed(1)} GB/s\n`);
  const columns = ["us", "GB/s", "TFLOP/s", "of roof"];
  console.log("case".padEnd(40) + columns.map((text) => text.padStart(10)).join(""));
}

function tableRow({ case: name, microseconds, gbPerSecond, tflops, streamShare }: Measurement): string {
  const share = `${(100 * streamShare).toFixed(1)} %`;
  const cells = [microseconds.toFixed(1), gbPerSecond.toFixed(2), tflops.toFixed(4), share];
  return name.padEnd(40) + cells.map((text) => text.padStart(10)).join("");
}

/** Four digits: more would be noise. */
function round(value: number): number {
  return Number(value.toPrecision(4));
}

function runtime(): string {
  const { bun, deno } = process.versions as { bun?: string; deno?: string };
  return bun ? `bun ${bun}` : deno ? `deno ${deno}` : `node ${process.versions.node}`;
}

await main();
