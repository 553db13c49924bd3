/** Times work on a device: between two timestamps where it has them, else by a clock. */
import type { Gpu } from "./gpu.ts";
import type { Dispatch } from "./kernel.ts";
import { ReadbackRing } from "./readback.ts";
import { type Program, Recorder } from "./recorder.ts";
import { createTensor } from "./tensor.ts";

/** Milliseconds that the work takes, as one submission. */
export type Timer = (work: readonly (Dispatch | Program)[]) => Promise<number>;

/** From submission until a word written behind the work can be read; `clock` gives milliseconds. */
export function wallTimer(gpu: Gpu, clock: () => number): Timer {
  const recorder = new Recorder(gpu);
  const ring = new ReadbackRing(gpu);
  const word = createTensor(gpu.device, { name: "fence", dtype: "u32", shape: [4], readable: true });
  return async (work) => {
    for (const item of work) recorder.add(item);
    const read = ring.request(recorder, word);
    const start = clock();
    recorder.submit();
    await read();
    return clock() - start;
  };
}

/** Between timestamps around all of it together, so that no dispatch is charged for a pass of its own. */
export function timestampTimer(gpu: Gpu): Timer {
  const { device } = gpu;
  const recorder = new Recorder(gpu);
  const ring = new ReadbackRing(gpu);
  const querySet = device.createQuerySet({ type: "timestamp", count: 2 });
  const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC;
  const resolved = device.createBuffer({ label: "timestamps", size: 16, usage });
  const stamps = createTensor(device, { name: "timestamps", dtype: "u32", shape: [4], readable: true });
  return async (work) => {
    for (const item of work) recorder.add(item);
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

/** The better of the two: timestamps leave out what the host does. A CPU adapter's work is the host's. */
export function bestTimer(gpu: Gpu, clock: () => number): Timer {
  const hasTimestamps = !gpu.traits.isCpu && gpu.device.features.has("timestamp-query");
  return hasTimestamps ? timestampTimer(gpu) : wallTimer(gpu, clock);
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
