/** Times dispatches, warmed up, in long submissions. */
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { add } from "../src/gpu/kernels/add.ts";
import { bestTimer, median, wallTimer } from "../src/gpu/stopwatch.ts";
import { createTensor } from "../src/gpu/tensor.ts";

const warmUpMs = { cpu: 50, gpu: 700 }; // a GPU's clocks take half a second to rise
const sampleMs = { cpu: 100, gpu: 20 };
const sampleCount = 9;
const dispatchesMax = 2000; // in one submission, since timestamps are limited too

/** Median microseconds of one dispatch, taking them in turn. */
export async function medianMicroseconds(gpu: Gpu, dispatches: readonly Dispatch[]): Promise<number> {
  await gpu.pipelines.compile(dispatches);
  const kind = gpu.traits.isCpu ? "cpu" : "gpu";
  const clock = () => performance.now();
  const wall = wallTimer(gpu, clock);
  let count = dispatches.length;
  let perDispatchMs = (await wall(repeat(dispatches, count))) / count;
  for (const start = performance.now(); performance.now() - start < warmUpMs[kind];) {
    count = Math.min(dispatchesMax, Math.max(1, Math.round(sampleMs[kind] / perDispatchMs)));
    perDispatchMs = (await wall(repeat(dispatches, count))) / count;
  }
  const timer = bestTimer(gpu, clock);
  const samples: number[] = [];
  for (let i = 0; i < sampleCount; i++) samples.push((await timer(repeat(dispatches, count))) / count);
  return 1000 * median(samples);
}

/**
 * The roofline: bytes read and written a nanosecond by a kernel that adds two large tensors. `copyBufferToBuffer` is no
 * measure of it: it reached 846 GB/s on an H100 whose kernels move 2,900.
 */
export async function streamGigabytesPerSecond(gpu: Gpu): Promise<number> {
  const shape = [gpu.traits.isCpu ? 1024 : 32_768, 4096];
  const [a, b, y] = ["a", "b", "y"].map((name) => createTensor(gpu.device, { name, dtype: "f32", shape }));
  const dispatch = add(gpu.traits, { a, b, y });
  await gpu.pipelines.compile([dispatch]);
  const microseconds = await medianMicroseconds(gpu, [dispatch]);
  for (const { buffer } of [a, b, y]) buffer.gpu.destroy();
  return dispatch.bytes / microseconds / 1e3;
}

function repeat(dispatches: readonly Dispatch[], count: number): Dispatch[] {
  return Array.from({ length: count }, (_, index) => dispatches[index % dispatches.length]);
}
