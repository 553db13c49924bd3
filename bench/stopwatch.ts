/** Times dispatches: by timestamp queries where the adapter has them, else by the clock over one long submission. */
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { Profiler } from "../src/gpu/profile.ts";
import { ReadbackRing } from "../src/gpu/readback.ts";
import { Recorder } from "../src/gpu/recorder.ts";
import { createTensor } from "../src/gpu/tensor.ts";

const warmUpMs = { cpu: 50, gpu: 700 }; // a GPU's clocks take half a second to rise
const sampleMs = { cpu: 100, gpu: 20 };
const sampleCount = 9;
const dispatchesMax = 2000; // in one submission, since timestamps are limited too

/** Median microseconds of one dispatch, taking them in turn. */
export async function medianMicroseconds(gpu: Gpu, dispatches: readonly Dispatch[]): Promise<number> {
  await gpu.pipelines.compile(dispatches);
  const kind = gpu.traits.isCpu ? "cpu" : "gpu";
  const wall = wallTimer(gpu);
  let count = dispatches.length;
  let perDispatchMs = (await wall(repeat(dispatches, count))) / count;
  for (const start = performance.now(); performance.now() - start < warmUpMs[kind];) {
    count = Math.min(dispatchesMax, Math.max(1, Math.round(sampleMs[kind] / perDispatchMs)));
    perDispatchMs = (await wall(repeat(dispatches, count))) / count;
  }
  const timer = kind === "gpu" && gpu.device.features.has("timestamp-query") ? timestampTimer(gpu) : wall;
  const samples: number[] = [];
  for (let i = 0; i < sampleCount; i++) samples.push((await timer(repeat(dispatches, count))) / count);
  return 1000 * median(samples);
}

/** Bytes read and written a nanosecond when the device copies a buffer. */
export async function copyGigabytesPerSecond(gpu: Gpu): Promise<number> {
  const size = gpu.traits.isCpu ? 2 ** 24 : 2 ** 29;
  const usage = GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const [from, to] = [0, 1].map(() => gpu.device.createBuffer({ size, usage }));
  const wall = wallTimer(gpu);
  const copies = gpu.traits.isCpu ? 8 : 100;
  const copy = (encoder: GPUCommandEncoder) => {
    for (let i = 0; i < copies; i++) encoder.copyBufferToBuffer(from, 0, to, 0, size);
  };
  const samples: number[] = [];
  for (let i = 0; i < sampleCount; i++) samples.push(await wall([], copy));
  from.destroy();
  to.destroy();
  return (2 * size * copies) / median(samples.slice(2)) / 1e6;
}

type Timer = (dispatches: readonly Dispatch[]) => Promise<number>;

/** Milliseconds from submission until a word written behind the work can be read. */
function wallTimer(
  gpu: Gpu,
): (dispatches: readonly Dispatch[], also?: (encoder: GPUCommandEncoder) => void) => Promise<number> {
  const recorder = new Recorder(gpu);
  const ring = new ReadbackRing(gpu);
  const word = createTensor(gpu.device, { name: "fence", dtype: "u32", shape: [4], readable: true });
  return async (dispatches, also) => {
    for (const dispatch of dispatches) recorder.add(dispatch);
    if (also) recorder.addAfterPass(also);
    const read = ring.request(recorder, word);
    const start = performance.now();
    recorder.submit();
    await read();
    return performance.now() - start;
  };
}

function timestampTimer(gpu: Gpu): Timer {
  const profiler = new Profiler(gpu);
  const recorder = new Recorder(gpu, profiler);
  let before = 0;
  return async (dispatches) => {
    for (const dispatch of dispatches) recorder.add(dispatch);
    recorder.submit();
    const total = (await profiler.report()).reduce((sum, { milliseconds }) => sum + milliseconds, 0);
    const elapsed = total - before;
    before = total;
    return elapsed;
  };
}

function repeat(dispatches: readonly Dispatch[], count: number): Dispatch[] {
  return Array.from({ length: count }, (_, index) => dispatches[index % dispatches.length]);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
