import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { BlockCopier } from "../../src/gpu/block-copier.ts";
import { add } from "../../src/gpu/kernels/add.ts";
import { ReadbackRing } from "../../src/gpu/readback.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import { createTensor, type Dtype, type Tensor, writeTensor } from "../../src/gpu/tensor.ts";
import { testGpu } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
const [blocks, blockSize, channels] = [5, 4, 8];
const blockElements = 2 * blockSize * channels;

/** A KV tensor whose elements are 1000 * block + index within the block. */
function kvTensor(name: string, dtype: Dtype): Tensor {
  const kv = createTensor(gpu.device, {
    name,
    dtype,
    shape: [blocks, 2, blockSize, channels],
    readable: true,
  });
  const values = Array.from({ length: blocks * blockElements }, (_, at) => valueOf(at, [0, 1, 2, 3, 4]));
  writeTensor(gpu.device, kv, dtype === "f16" ? Float16Array.from(values) : Float32Array.from(values));
  return kv;
}

/** The value at an element when each block holds what another block held at first. */
function valueOf(at: number, origins: readonly number[]): number {
  return 200 * origins[Math.floor(at / blockElements)] + (at % blockElements);
}

function expected(origins: readonly number[]): number[] {
  return Array.from({ length: blocks * blockElements }, (_, at) => valueOf(at, origins));
}

async function submitted(recorder: Recorder, tensors: readonly Tensor[]): Promise<number[][]> {
  const ring = new ReadbackRing(gpu);
  const reads = tensors.map((tensor) => ring.request(recorder, tensor));
  recorder.submit();
  const bytes = await Promise.all(reads.map((read) => read()));
  return bytes.map((one, index) => [
    ...(tensors[index].dtype === "f16" ? new Float16Array(one) : new Float32Array(one)),
  ]);
}

describe("block copies", () => {
  test("go through all tensors, in the order asked for, and leave the other blocks", async () => {
    const [first, second] = [kvTensor("kv-0", "f32"), kvTensor("kv-1", "f16")];
    const recorder = new Recorder(gpu);
    const copier = new BlockCopier(gpu.device);
    copier.copy(recorder, [first], { from: 1, to: 4 });
    copier.copy(recorder, [first, second], { from: 4, to: 2 });
    copier.copy(recorder, [second], { from: 3, to: 3 });
    copier.copy(recorder, [first, second], { from: 0, to: 1 });
    const results = await submitted(recorder, [first, second]);
    expect(results).toEqual([expected([0, 0, 1, 3, 1]), expected([0, 0, 4, 3, 4])]);
    gpu.assertAlive();
  });

  test("take the scales of a quantised cache along", async () => {
    const scales = kvTensor("kv.scales", "f32");
    const kv = createTensor(gpu.device, {
      name: "kv",
      dtype: "i8",
      shape: [blocks, 2, 3, 8],
      readable: true,
    });
    const bytes = Int8Array.from({ length: blocks * 48 }, (_, at) => 20 * Math.floor(at / 48) - (at % 48));
    writeTensor(gpu.device, kv, bytes);
    const recorder = new Recorder(gpu);
    new BlockCopier(gpu.device).copy(recorder, [{ ...kv, scales }], { from: 3, to: 1 });
    const reads = [scales, kv].map((tensor) => new ReadbackRing(gpu).request(recorder, tensor));
    recorder.submit();
    const [copiedScales, copied] = await Promise.all(reads.map((read) => read()));
    expect([...new Float32Array(copiedScales)]).toEqual(expected([0, 3, 2, 3, 4]));
    bytes.copyWithin(48, 3 * 48, 4 * 48);
    expect([...new Int8Array(copied)]).toEqual([...bytes]);
  });

  test("are seen by the pass of the same submission, and see the passes before", async () => {
    const kv = kvTensor("kv", "f32");
    const flat = { ...kv, shape: [blocks, blockElements] };
    const ones = createTensor(gpu.device, { name: "ones", dtype: "f32", shape: [1, blockElements] });
    writeTensor(gpu.device, ones, new Float32Array(blockElements).fill(1));
    const sums = createTensor(gpu.device, {
      name: "sums",
      dtype: "f32",
      shape: [blocks, blockElements],
      readable: true,
    });
    const recorder = new Recorder(gpu);
    const copier = new BlockCopier(gpu.device);
    recorder.add(add(gpu.traits, { a: flat, b: ones, y: sums })); // recorded first, runs second
    copier.copy(recorder, [kv], { from: 2, to: 0 });
    const [first] = await submitted(recorder, [sums]);
    expect(first).toEqual(expected([2, 1, 2, 3, 4]).map((value) => value + 1));
    const next = createTensor(gpu.device, { ...sums, name: "next", readable: true });
    recorder.add(add(gpu.traits, { a: sums, b: ones, y: next }));
    copier.copy(recorder, [sums], { from: 0, to: 3 });
    const [second] = await submitted(recorder, [next]);
    expect(second).toEqual(expected([2, 1, 2, 2, 4]).map((value) => value + 2));
    gpu.assertAlive();
  });

  test("are forgotten by take(), and done once", async () => {
    const kv = kvTensor("kv", "f32");
    const recorder = new Recorder(gpu);
    const copier = new BlockCopier(gpu.device);
    copier.copy(recorder, [kv], { from: 1, to: 2 });
    recorder.take();
    expect(await submitted(recorder, [kv])).toEqual([expected([0, 1, 2, 3, 4])]);
    copier.copy(recorder, [kv], { from: 1, to: 2 });
    expect(await submitted(recorder, [kv])).toEqual([expected([0, 1, 1, 3, 4])]);
    writeTensor(gpu.device, kv, new Float32Array(blockElements * blocks));
    expect(await submitted(recorder, [kv])).toEqual([new Array<number>(blockElements * blocks).fill(0)]);
  });

  test("of a block that is not there are refused, with nothing recorded", async () => {
    const kv = kvTensor("kv-3", "f32");
    const recorder = new Recorder(gpu);
    const copier = new BlockCopier(gpu.device);
    for (const wrong of [
      { from: 5, to: 0 },
      { from: 0, to: -1 },
      { from: 0.5, to: 1 },
    ]) {
      expect(() => copier.copy(recorder, [kv], wrong)).toThrow("of tensor kv-3: expected one of 5 blocks");
    }
    expect(await submitted(recorder, [kv])).toEqual([expected([0, 1, 2, 3, 4])]);
  });
});
