/**
 * The kernels for CPU adapters beside the best loops known for the same jobs: what share of their speed do they reach?
 *
 *   bun bench/cpu-kernels.ts [--gpu software] [--filter linear] [--rounds 9] [--json] [--record] [--all]
 *
 * Cases are those of kernel-cases.ts that are meant for a CPU, loops those of cpu-loops.ts: other WGSL, or the same with
 * other workgroups. A kernel must be right by float64, a loop give what the kernel gives. All run in turns, so that
 * whatever else the machine does happens to all; time is the CPU time of the process, which counts the adapter's threads
 * and nobody else's, and of which the least is counted: noise only adds to it. `--all` prints every loop, `--record` appends a line a case to
 * bench/history.ndjson.
 */
import { appendFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import { type GpuChoice, gpuChoices, openDevice } from "../src/gpu/device/open-device.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { sameResults } from "../src/gpu/outputs.ts";
import { type Program, Recorder } from "../src/gpu/recorder.ts";
import { type Timer, wallTimer } from "../src/gpu/stopwatch.ts";
import { checkedOutputs } from "./check.ts";
import { commit } from "./commit.ts";
import { loopsFor } from "./cpu-loops.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { kernelCases } from "./kernel-cases.ts";

interface Candidate {
  name: string;
  program: Program;
  /** In a submission. */
  dispatchCount: number;
  repeats: number;
  /** Microseconds of a dispatch, a sample a round. */
  cpu: number[];
  wall: number[];
}

/** A line of bench/history.ndjson. */
interface Measurement {
  date: string;
  commit: string | null;
  adapter: string;
  runtime: string;
  case: string;
  cpuMicroseconds: number;
  bestLoop: string;
  bestLoopCpuMicroseconds: number;
  /** Of the best loop's speed: 1 where the kernel is the best. */
  loopShare: number;
  gbPerSecond: number;
  gflops: number;
  checked: true;
}

const sampleMs = 25;
/** A loop that takes so many times as long as the kernel is not measured any further. */
const hopelessShare = 1.5;

async function main(): Promise<void> {
  const options = readOptions();
  const gpu = await openDevice({ choice: options.gpu, checks: false });
  if (!gpu.traits.isCpu)
    throw new Error(`Cannot compare loops: expected a CPU adapter, got ${gpu.describe()}`);
  const { bun } = process.versions as { bun?: string };
  const common = {
    date: new Date().toISOString(),
    commit: commit(),
    adapter: gpu.adapterName,
    runtime: `${bun ? `bun ${bun}` : "deno"} ${gpu.implementation}`,
  };
  if (!options.json) console.log(head(gpu));
  for (const kernelCase of kernelCases) {
    if (kernelCase.on !== "cpu" || !kernelCase.name.includes(options.filter)) continue;
    const built = kernelCase.build(gpu);
    if (loopsFor(built.dispatches[0].file).length === 0) continue; // no step there has it
    const candidates = await measure(gpu, kernelCase, built, options.rounds);
    const found = { ...common, ...summary(kernelCase, built.dispatches[0], candidates) };
    console.log(options.json ? JSON.stringify(found) : row(found));
    if (options.all) for (const candidate of candidates) console.log(detail(candidate, candidates[0]));
    if (options.record)
      appendFileSync(new URL("history.ndjson", import.meta.url), `${JSON.stringify(found)}\n`);
  }
  gpu.close();
}

function readOptions() {
  const { values } = parseArgs({
    options: {
      gpu: { type: "string", default: "software" },
      filter: { type: "string", default: "" },
      rounds: { type: "string", default: "9" },
      json: { type: "boolean", default: false },
      record: { type: "boolean", default: false },
      all: { type: "boolean", default: false },
    },
  });
  const gpu: GpuChoice | undefined = gpuChoices.find((choice) => choice === values.gpu);
  if (!gpu) throw new Error(`Cannot use --gpu ${values.gpu}: expected one of ${gpuChoices.join(", ")}`);
  return { ...values, gpu, rounds: Number(values.rounds) };
}

/** The kernel first; all of them checked, and measured in turns. */
async function measure(
  gpu: Gpu,
  { name }: KernelCase,
  built: BuiltCase,
  rounds: number,
): Promise<Candidate[]> {
  const candidates = await checkedCandidates(gpu, name, built);
  const timer = wallTimer(gpu, () => performance.now());
  for (const candidate of candidates) await calibrate(timer, candidate);
  const [kernel] = candidates;
  const limit = hopelessShare * least(kernel.cpu);
  const inTheRunning = candidates.filter(({ cpu }) => least(cpu) <= limit);
  for (const candidate of inTheRunning) {
    candidate.cpu.length = 0;
    candidate.wall.length = 0;
  }
  for (let round = 0; round < rounds; round++) {
    for (const candidate of inTheRunning) await sample(timer, candidate);
  }
  return candidates;
}

async function checkedCandidates(gpu: Gpu, name: string, built: BuiltCase): Promise<Candidate[]> {
  const { outputs, results } = await checkedOutputs(gpu, name, built);
  const recorder = new Recorder(gpu);
  const candidate = (of: string, dispatches: readonly Dispatch[]): Candidate => {
    const program = recorder.program(dispatches);
    return { name: of, program, dispatchCount: dispatches.length, repeats: 1, cpu: [], wall: [] };
  };
  const candidates = [candidate("kernel", built.dispatches)];
  for (const loop of loopsFor(built.dispatches[0].file)) {
    const dispatches = built.dispatches.map((dispatch) => loop.of(dispatch));
    await gpu.pipelines.compile(dispatches.slice(0, 1));
    if (!sameResults(await outputs.of(dispatches[0]), results))
      throw new Error(`Cannot trust the loop ${loop.name} for ${name}: its results are not the kernel's`);
    candidates.push(candidate(loop.name, dispatches));
  }
  outputs.restore();
  return candidates;
}

/** Enough repeats for a sample, found by warming up: the shorter of two runs counts, since a pause makes one long. */
async function calibrate(timer: Timer, candidate: Candidate): Promise<void> {
  const run = () => timer(Array.from({ length: candidate.repeats }, () => candidate.program));
  for (let ms = 0; ms < sampleMs / 2;) {
    ms = Math.min(await run(), await run());
    const wanted = Math.ceil((candidate.repeats * sampleMs) / Math.max(ms, 1e-3));
    candidate.repeats = Math.min(wanted, 8 * candidate.repeats);
  }
  await sample(timer, candidate);
}

async function sample(
  timer: Timer,
  { program, dispatchCount, repeats, cpu, wall }: Candidate,
): Promise<void> {
  const work = Array.from({ length: repeats }, () => program);
  const before = process.cpuUsage();
  const ms = await timer(work);
  const { user, system } = process.cpuUsage(before);
  cpu.push((user + system) / (repeats * dispatchCount));
  wall.push((1000 * ms) / (repeats * dispatchCount));
}

/** How the kernel and the best of the loops compare, whichever was better. */
function summary({ name }: KernelCase, { bytes, flops }: Dispatch, candidates: readonly Candidate[]) {
  const [kernel, ...loops] = candidates;
  const shares = loops.map((loop) => shareOf(loop, kernel));
  const best = shares.indexOf(Math.min(1, ...shares)); // -1: the kernel
  const microseconds = least(kernel.cpu);
  return {
    case: name,
    cpuMicroseconds: round(microseconds),
    bestLoop: best < 0 ? "kernel" : loops[best].name,
    bestLoopCpuMicroseconds: round(best < 0 ? microseconds : least(loops[best].cpu)),
    loopShare: round(best < 0 ? 1 : shares[best]),
    gbPerSecond: round(bytes / microseconds / 1e3),
    gflops: round(flops / microseconds / 1e3),
    checked: true as const,
  };
}

function least(times: readonly number[]): number {
  return Math.min(...times);
}

/** The loop's time as a share of the kernel's. */
function shareOf(loop: Candidate, kernel: Candidate): number {
  return least(loop.cpu) / least(kernel.cpu);
}

function head(gpu: Gpu): string {
  const columns = ["CPU us", "GB/s", "GFLOP/s", "share"].map((text) => text.padStart(10)).join("");
  return `${gpu.describe()}\n\n${"case".padEnd(44)}${columns}  best loop`;
}

function row({ case: name, cpuMicroseconds, gbPerSecond, gflops, loopShare, bestLoop }: Measurement): string {
  const cells = [cpuMicroseconds.toFixed(1), gbPerSecond.toFixed(2), gflops.toFixed(2), percent(loopShare)];
  return `${name.padEnd(44)}${cells.map((text) => text.padStart(10)).join("")}  ${bestLoop}`;
}

function detail(candidate: Candidate, kernel: Candidate): string {
  const [cpu, wall] = [candidate.cpu, candidate.wall].map((times) => least(times).toFixed(1).padStart(10));
  return `    ${candidate.name.padEnd(40)}${cpu} ${wall} wall ${percent(shareOf(candidate, kernel)).padStart(8)}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

/** Four digits: more would be noise. */
function round(value: number): number {
  return Number(value.toPrecision(4));
}

await main();
