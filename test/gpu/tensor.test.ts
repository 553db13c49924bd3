import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  align,
  createTensor,
  elementCount,
  flatten,
  rows,
  section,
  type TensorOptions,
  writeTensor,
} from "../../src/gpu/tensor.ts";
import { testGpu } from "../support/gpu.ts";
import { readBytes, readF32, readU32 } from "../support/read-tensor.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

function readable(shape: number[], dtype: TensorOptions["dtype"] = "u32") {
  return createTensor(gpu.device, { name: "states", dtype, shape, readable: true });
}

describe("createTensor", () => {
  test("starts with zeros", async () => {
    expect(await readF32(gpu, readable([3, 5], "f32"))).toEqual(Array.from({ length: 15 }, () => 0));
  });

  test("an empty one and a 16-bit one of odd size are allowed", async () => {
    expect(readable([0, 8]).size).toBe(16);
    const odd = readable([3], "f16");
    expect((await readBytes(gpu, odd)).byteLength).toBe(6);
  });

  test("over what the device can bind: a RangeError with name, shape and sizes", () => {
    const { maxStorageBufferBindingSize, maxBufferSize } = gpu.device.limits;
    const most = Math.min(maxStorageBufferBindingSize, maxBufferSize);
    const count = most / 4 + 4;
    const create = () => readable([count], "f32");
    expect(create).toThrow(RangeError);
    expect(create).toThrow(
      `Cannot allocate tensor states [${count}] f32: at most ${most} bytes can be bound on this device, got ${align(4 * count, 16)}`,
    );
  });

  test("the smaller of the two limits counts, and a tensor of just that size is made", () => {
    for (const limits of [
      { maxStorageBufferBindingSize: 1024, maxBufferSize: 4096 },
      { maxStorageBufferBindingSize: 4096, maxBufferSize: 1024 },
    ]) {
      const device = { limits, createBuffer: () => ({}) } as unknown as GPUDevice;
      const options = (count: number): TensorOptions => ({ name: "w", dtype: "f16", shape: [count, 8] });
      expect(createTensor(device, options(64)).size).toBe(1024);
      expect(() => createTensor(device, options(65))).toThrow("at most 1024 bytes");
    }
  });
});

describe("views", () => {
  test("rows share memory and binding", async () => {
    const whole = readable([4, 2]);
    const first = rows(whole, 2);
    expect([first.buffer, first.offset, first.size]).toEqual([whole.buffer, whole.offset, whole.size]);
    writeTensor(gpu.device, whole, Uint32Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    expect(await readU32(gpu, first)).toEqual([1, 2, 3, 4]);
    expect(() => rows(whole, 5)).toThrow("Cannot take 5 rows of tensor states: it has 4");
  });

  test("a section begins at its offset and may not end behind its tensor", async () => {
    const whole = readable([256]);
    const part = section(whole, { name: "part", dtype: "u32", shape: [4], offset: 512 });
    writeTensor(gpu.device, part, Uint32Array.of(1, 2, 3, 4));
    expect((await readU32(gpu, whole)).slice(127, 133)).toEqual([0, 1, 2, 3, 4, 0]);
    expect(await readU32(gpu, part)).toEqual([1, 2, 3, 4]);
    const beyond = () => section(whole, { name: "part", dtype: "u32", shape: [65], offset: 768 });
    expect(beyond).toThrow("Cannot cut part out of states: 1040 bytes of 1024");
  });

  test("flatten keeps the elements", () => {
    expect(flatten(readable([3, 4, 5])).shape).toEqual([60]);
  });
});

describe("writeTensor", () => {
  test("writes at an offset, from the middle of another array's memory", async () => {
    const target = readable([6]);
    const source = Uint32Array.of(9, 9, 1, 2, 9);
    writeTensor(gpu.device, target, source.subarray(2, 4), 8);
    source.fill(7); // the data has been copied
    expect(await readU32(gpu, target)).toEqual([0, 0, 1, 2, 0, 0]);
  });

  test("refuses what does not fit", () => {
    const target = readable([4]);
    expect(() => writeTensor(gpu.device, target, new Uint32Array(4), 4)).toThrow(
      "Cannot write 16 bytes at 4 of tensor states: it has 16 bytes",
    );
  });
});

test("sizes", () => {
  expect([elementCount([]), elementCount([3, 4]), elementCount([3, 0])]).toEqual([1, 12, 0]);
  expect([align(0, 16), align(1, 16), align(16, 16), align(17, 4)]).toEqual([0, 16, 16, 20]);
});
