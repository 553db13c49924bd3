/**
 * What kernel tests share: one device a process, outputs filled with NaN between guard bands, and comparison with a
 * float64 reference by relative RMS and worst element.
 *
 * `PRELUDE_GPU` picks the adapter (default: software, the one every machine has); `REQUIRE_GPU=1` makes a test that
 * needs real hardware fail instead of skip.
 */
import { afterAll } from "bun:test";
import { openDevice, type GpuChoice } from "../../src/gpu/device/open-device.ts";
import type { Gpu, GpuOptions } from "../../src/gpu/gpu.ts";
import type { Dispatch } from "../../src/gpu/kernel.ts";
import { ReadbackRing } from "../../src/gpu/readback.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import {
  createQuantized,
  createTensor,
  type Dtype,
  elementCount,
  section,
  type Tensor,
  writeTensor,
} from "../../src/gpu/tensor.ts";

const opened = new Map<GpuOptions["kernelsFor"], Promise<Gpu>>();

/** The process's device, with validation and robustness on; another one for kernels of a class that is not its own. */
export function testGpu(kernelsFor?: GpuOptions["kernelsFor"]): Promise<Gpu> {
  const found = opened.get(kernelsFor) ?? open(kernelsFor);
  opened.set(kernelsFor, found);
  return found;
}

async function open(kernelsFor: GpuOptions["kernelsFor"]): Promise<Gpu> {
  const choice = (process.env.PRELUDE_GPU as GpuChoice | undefined) ?? "software";
  const gpu = await openDevice({ choice, checks: true, kernelsFor });
  // Deno runs each file in a realm of its own. A device that is open when the process ends may crash it, since the
  // software adapter's threads outlive the driver.
  if ("Deno" in globalThis) afterAll(() => gpu.close());
  return gpu;
}

/**
 * Whether to skip a test that needs what a software adapter lacks. With `REQUIRE_GPU=1` it is run all the same, and
 * fails where it cannot pass. The reason belongs into the test's name, so that it is printed with the skip.
 */
export function skipWithoutGpu(isLacking: boolean): boolean {
  return isLacking && process.env.REQUIRE_GPU !== "1";
}

const guardBytes = 256;
const guardPattern = 0xdeadbeef;

/** A tensor holding these values, rounded to its dtype (16-bit values to nearest even). */
export function upload(
  gpu: Gpu,
  name: string,
  shape: number[],
  values: ArrayLike<number>,
  dtype: Dtype = "f32",
): Tensor {
  if (values.length !== elementCount(shape))
    throw new Error(`${name}: ${values.length} values for [${shape.join()}]`);
  const created = createTensor(gpu.device, { name, dtype, shape });
  writeTensor(gpu.device, created, wholeWords(encode(values, dtype)));
  return created;
}

/** Padded with zeros to a multiple of 4 bytes, as buffer writes want it. */
function wholeWords(data: ArrayBufferView): Uint8Array {
  const padded = new Uint8Array(Math.ceil(data.byteLength / 4) * 4);
  padded.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return padded;
}

/** A quantised matrix of integers, [rows, columns], with its scales, [rows, groups of columns]. */
export function uploadQuantized(
  gpu: Gpu,
  name: string,
  shape: number[],
  { values, scales, dtype }: { values: ArrayLike<number>; scales: ArrayLike<number>; dtype: "i8" | "i4" },
): Tensor {
  const [rows, columns] = shape;
  const group = (rows * columns) / scales.length;
  const created = createQuantized(gpu.device, { name, dtype, shape: [rows, columns], group });
  writeTensor(gpu.device, created, wholeWords(encode(values, dtype)));
  writeTensor(gpu.device, created.scales, wholeWords(encode(scales, "f16")));
  return created;
}

/** An output: NaN inside (or the given values), a pattern before and behind that must survive. */
export function output(
  gpu: Gpu,
  name: string,
  shape: number[],
  initial?: ArrayLike<number>,
  dtype: Dtype = "f32",
): Tensor {
  const data = encode(initial ?? new Float32Array(elementCount(shape)).fill(NaN), dtype);
  const words = Math.ceil(data.byteLength / 16) * 4;
  const whole = createTensor(gpu.device, {
    name,
    dtype: "u32",
    shape: [words + guardBytes / 2],
    readable: true,
  });
  writeTensor(gpu.device, whole, new Uint32Array(words + guardBytes / 2).fill(guardPattern));
  const inner = section(whole, { name, dtype, shape, offset: guardBytes });
  writeTensor(gpu.device, inner, data);
  return inner;
}

/** Runs the dispatches twice from the same start, checks equal bits and guard bands, returns the outputs decoded. */
export async function runTwice<Name extends string>(
  gpu: Gpu,
  dispatches: Dispatch[],
  outputs: Record<Name, Tensor>,
): Promise<Record<Name, Float32Array>> {
  const list = Object.values<Tensor>(outputs);
  const start = await readAll(gpu, [], list);
  const first = await readAll(gpu, dispatches, list);
  list.forEach((tensor, index) => gpu.device.queue.writeBuffer(tensor.buffer.gpu, 0, start[index]));
  const second = await readAll(gpu, dispatches, list);
  const results = {} as Record<Name, Float32Array>;
  (Object.keys(outputs) as Name[]).forEach((name, index) => {
    assertSameBits(name, first[index], second[index]);
    assertGuards(outputs[name], first[index]);
    results[name] = decode(first[index], outputs[name]);
  });
  return results;
}

async function readAll(gpu: Gpu, dispatches: Dispatch[], list: Tensor[]): Promise<ArrayBuffer[]> {
  const recorder = new Recorder(gpu);
  const ring = new ReadbackRing(gpu);
  for (const dispatch of dispatches) recorder.add(dispatch);
  const reads = list.map((tensor) => {
    const whole = { ...tensor, dtype: "u32" as const, offset: 0, shape: [tensor.buffer.gpu.size / 4] };
    return ring.request(recorder, whole);
  });
  await gpu.pipelines.compile(dispatches);
  recorder.submit();
  return Promise.all(reads.map((read) => read()));
}

function assertSameBits(name: string, a: ArrayBuffer, b: ArrayBuffer): void {
  const [left, right] = [new Uint32Array(a), new Uint32Array(b)];
  const at = left.findIndex((word, index) => word !== right[index]);
  if (at >= 0) throw new Error(`${name}: two runs differ at word ${at}: ${left[at]} and ${right[at]}`);
}

function assertGuards(tensor: Tensor, bytes: ArrayBuffer): void {
  const words = new Uint32Array(bytes);
  const first = tensor.offset / 4;
  const last = first + tensor.size / 4;
  words.forEach((word, index) => {
    if ((index < first || index >= last) && word !== guardPattern) {
      throw new Error(`${tensor.name}: written outside, at word ${index - first} of ${last - first}`);
    }
  });
}

function encode(values: ArrayLike<number>, dtype: Dtype): ArrayBufferView {
  if (dtype === "u32") return Uint32Array.from(values);
  if (dtype === "f32") return Float32Array.from(values);
  if (dtype === "f16") return Float16Array.from(values);
  if (dtype === "i8") return Int8Array.from(values);
  if (dtype === "i4") return Uint8Array.from({ length: values.length / 2 }, (_, i) => nibbles(values, 2 * i));
  return Uint16Array.from(values, (value) => bf16Bits(value));
}

function nibbles(values: ArrayLike<number>, first: number): number {
  return values[first] + 8 + 16 * (values[first + 1] + 8);
}

function decode(bytes: ArrayBuffer, { dtype, offset, shape }: Tensor): Float32Array {
  const count = elementCount(shape);
  if (dtype === "u32") return Float32Array.from(new Uint32Array(bytes, offset, count));
  if (dtype === "f32") return new Float32Array(bytes, offset, count);
  if (dtype === "f16") return Float32Array.from(new Float16Array(bytes, offset, count));
  if (dtype === "i8") return Float32Array.from(new Int8Array(bytes, offset, count));
  const widened = Uint32Array.from(new Uint16Array(bytes, offset, count), (bits) => bits << 16);
  return new Float32Array(widened.buffer);
}

/** What a value becomes when stored: the reference must be computed on these. */
export function rounded(values: ArrayLike<number>, dtype: Dtype): Float64Array {
  if (dtype === "bf16") return Float64Array.from(values, (value) => fromBits(bf16Bits(value) << 16));
  return Float64Array.from(values, dtype === "f16" ? Math.f16round : Math.fround);
}

const scratch = new DataView(new ArrayBuffer(4));

function bf16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if (Number.isNaN(value)) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

function fromBits(bits: number): number {
  scratch.setUint32(0, bits >>> 0);
  return scratch.getFloat32(0);
}

export interface Tolerance {
  /** ||actual - expected|| / ||expected|| */
  relativeRms: number;
  /** Largest |actual - expected|, relative to the root mean square of expected. */
  worst: number;
}

/** Throws unless every element was written and both errors are within tolerance. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
): void {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} values, expected ${expected.length}`);
  let [error, norm, worst, worstAt] = [0, 0, 0, 0];
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!(difference < Infinity)) throw new Error(`element ${i} is ${actual[i]}, expected ${expected[i]}`);
    error += difference * difference;
    norm += expected[i] * expected[i];
    if (difference > worst) [worst, worstAt] = [difference, i];
  }
  const scale = Math.sqrt(norm / Math.max(1, expected.length)) || 1;
  const relativeRms = Math.sqrt(error / Math.max(1, expected.length)) / scale;
  if (relativeRms > tolerance.relativeRms || worst / scale > tolerance.worst) {
    const found = `relative RMS ${relativeRms.toExponential(2)}, worst ${(worst / scale).toExponential(2)} at ${worstAt}`;
    throw new Error(
      `${found} (${actual[worstAt]} for ${expected[worstAt]}); allowed ${JSON.stringify(tolerance)}`,
    );
  }
}

/** Seeded normal numbers (mulberry32 and Box-Muller): equal on every runtime. */
export function normals(seed: number, count: number, scale = 1): Float64Array {
  const uniform = uniforms(seed);
  return Float64Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return scale * radius * Math.cos(2 * Math.PI * uniform());
  });
}

export function uniforms(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** The traits of every variant that can run on this device: its own, and the other class of adapter's. */
export function traitVariants(gpu: Gpu): Gpu["traits"][] {
  const { traits } = gpu;
  const plain = { ...traits, hasF16: false, hasSubgroups: false, hasSubgroupMatrix: false };
  return [traits, { ...plain, isCpu: !traits.isCpu }, { ...plain, isCpu: false }];
}
