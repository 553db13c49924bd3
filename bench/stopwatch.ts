/** Times dispatches: by timestamp queries where the adapter has them, else by the clock over one long submission. */
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { add } from "../src/gpu/kernels/add.ts";
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

type Timer = (dispatches: readonly Dispatch[]) => Promise<number>;

/** Milliseconds from submission until a word written behind the work can be read. */
function wallTimer(gpu: Gpu): Timer {
  const recorder = new Recorder(gpu);
  const ring = new ReadbackRing(gpu);
  const word = createTensor(gpu.device, { name: "fence", dtype: "u32", shape: [4], readable: true });
  return async (dispatches) => {
    for (const dispatch of dispatches) recorder.add(dispatch);
    const read = ring.request(recorder, word);
    const start = performance.now();
    recorder.submit();
    await read();
    return performance.now() - start;
  };
}

/** Milliseconds between timestamps around all dispatches together, so that none is charged for a pass of its own. */
function timestampTimer(gpu: Gpu): Timer {
  const { device } = gpu;
  const recorder = new Recorder(gpu);
  const ring = new ReadbackRing(gpu);
  const querySet = device.createQuerySet({ type: "timestamp", count: 2 });
  const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC;
  const resolved = device.createBuffer({ label: "timestamps", size: 16, usage });
  const stamps = createTensor(device, { name: "timestamps", dtype: "u32", shape: [4], readable: true });
  return async (dispatches) => {
    for (const dispatch of dispatches) recorder.add(dispatch);
    recorder.addAfterPass((encoder) => {
      encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, stamps.buffer.gpu, 0, 16);
    });
    const read = ring.request(recorder, stamps);
    const timestampWrites = { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
    recorder.submit({ timestampWrites });
    const [start, end] = new BigUint64Array(await read());
    return Number(end - start) / 1e6;
  };
}

function repeat(dispatches: readonly Dispatch[], count: number): Dispatch[] {
  return Array.from({ length: count }, (_, index) => dispatches[index % dispatches.length]);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
