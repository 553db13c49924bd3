/** What a dispatch writes, again and again from the same start: for comparing variants of it. */
import type { Gpu } from "./gpu.ts";
import type { Dispatch } from "./kernel.ts";
import { ReadbackRing } from "./readback.ts";
import { Recorder } from "./recorder.ts";
import type { Dtype, Tensor } from "./tensor.ts";

/** An output's elements as numbers, and how exactly its format keeps them. */
export interface Result {
  values: Float32Array;
  /** Largest error allowed, relative to the root mean square: of all elements together, and of the worst one. */
  relativeRms: number;
  worst: number;
}

export interface Outputs {
  /** Runs a dispatch that writes the same tensors, which hold what they held at first; what it leaves in them. */
  of(dispatch: Dispatch): Promise<Result[]>;
  /** Gives the tensors back what they held at first. */
  restore(): void;
}

/** Keeps a copy of what the dispatch will overwrite; its outputs must be readable. */
export function outputsOf(gpu: Gpu, { spec, tensors }: Dispatch): Outputs {
  const written = Object.entries(spec.tensors).flatMap(([name, { access }]) =>
    access === "read_write" ? [tensors[name]] : [],
  );
  const copies = written.map((tensor) => copyOf(gpu.device, tensor));
  const restoreAll = (encoder: GPUCommandEncoder) =>
    written.forEach(({ buffer, offset, size }, index) =>
      encoder.copyBufferToBuffer(copies[index], 0, buffer.gpu, offset, size),
    );
  const recorder = new Recorder(gpu);
  const ring = new ReadbackRing(gpu);
  return {
    async of(dispatch) {
      recorder.addBeforePass(restoreAll);
      recorder.add(dispatch);
      const reads = written.map((tensor) => ring.request(recorder, tensor));
      recorder.submit();
      const bytes = await Promise.all(reads.map((read) => read()));
      return bytes.map((each, index) => ({
        values: decode(each, written[index].dtype),
        ...tolerances(written[index]),
      }));
    },
    restore() {
      const encoder = gpu.device.createCommandEncoder();
      restoreAll(encoder);
      gpu.device.queue.submit([encoder.finish()]);
      for (const copy of copies) copy.destroy();
    },
  };
}

function copyOf(device: GPUDevice, { buffer, offset, size }: Tensor): GPUBuffer {
  const usage = GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const copy = device.createBuffer({ label: "copy", size, usage });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer.gpu, offset, copy, 0, size);
  device.queue.submit([encoder.finish()]);
  return copy;
}

function decode(bytes: ArrayBuffer, dtype: Dtype): Float32Array {
  if (dtype === "f32") return new Float32Array(bytes);
  if (dtype === "f16") return Float32Array.from(new Float16Array(bytes));
  if (dtype === "bf16") {
    return new Float32Array(Uint32Array.from(new Uint16Array(bytes), (bits) => bits << 16).buffer);
  }
  if (dtype === "u32") return Float32Array.from(new Uint32Array(bytes));
  if (dtype === "i8") return Float32Array.from(new Int8Array(bytes));
  throw new TypeError(`Cannot compare results: expected a format with an array of its own, got ${dtype}`);
}

/** Sums of thousands of products in another order, rounded to the output's format; numbers of things are exact. */
function tolerances({ dtype }: Tensor): { relativeRms: number; worst: number } {
  if (dtype === "u32") return { relativeRms: 0, worst: 0 };
  return dtype === "f32" ? { relativeRms: 1e-5, worst: 1e-3 } : { relativeRms: 4e-3, worst: 4e-2 };
}

/** Whether all elements are as near to those expected as rounding explains. */
export function sameResults(actual: readonly Result[], expected: readonly Result[]): boolean {
  return actual.every(({ values }, index) => isNear(values, expected[index]));
}

function isNear(actual: Float32Array, { values, relativeRms, worst }: Result): boolean {
  let [squares, errors, most] = [0, 0, 0];
  for (let i = 0; i < values.length; i++) {
    // What neither wrote is equal bit for bit, and may be no number.
    const error = Object.is(actual[i], values[i]) ? 0 : Math.abs(actual[i] - values[i]);
    if (Number.isNaN(error)) return false;
    squares += Number.isNaN(values[i]) ? 0 : values[i] ** 2;
    errors += error ** 2;
    most = Math.max(most, error);
  }
  const scale = Math.sqrt(squares / values.length) || 1;
  return Math.sqrt(errors / values.length) <= relativeRms * scale && most <= worst * scale;
}
