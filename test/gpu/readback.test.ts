import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { ReadbackRing } from "../../src/gpu/readback.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import { createTensor, rows, section, type Tensor, writeTensor } from "../../src/gpu/tensor.ts";
import { testGpu } from "../support/gpu.ts";
import { rejection } from "../support/rejection.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

function tensor(count: number, first: number): Tensor {
  const created = createTensor(gpu.device, { name: "t", dtype: "u32", shape: [count], readable: true });
  fill(created, first);
  return created;
}

function fill(target: Tensor, first: number): void {
  writeTensor(
    gpu.device,
    target,
    Uint32Array.from({ length: target.shape[0] }, (_, index) => first + index),
  );
}

const words = (bytes: ArrayBuffer) => [...new Uint32Array(bytes)];

describe("ReadbackRing", () => {
  test("gives the values as of the submission, not those written since", async () => {
    const [recorder, ring, source] = [new Recorder(gpu), new ReadbackRing(gpu), tensor(3, 10)];
    const before = ring.request(recorder, source);
    recorder.submit();
    fill(source, 20);
    const after = ring.request(recorder, source);
    recorder.submit();
    expect(words(await before())).toEqual([10, 11, 12]);
    expect(words(await after())).toEqual([20, 21, 22]);
  });

  test("results may be asked for late and in any order; each is a copy of its own", async () => {
    const [recorder, ring, source] = [new Recorder(gpu), new ReadbackRing(gpu), tensor(2, 0)];
    const reads = [1, 2, 3, 4].map((first) => {
      fill(source, first);
      const read = ring.request(recorder, source);
      recorder.submit();
      return read;
    });
    const last = await reads[3]();
    const others = await Promise.all([reads[1](), reads[0](), reads[2]()]);
    expect([last, ...others].map((bytes) => words(bytes)[0])).toEqual([4, 2, 1, 3]);
    new Uint32Array(last).fill(99);
    expect(words(others[0])).toEqual([2, 3]);
  });

  test("a hundred steps, read one behind, share two staging buffers", async () => {
    const [recorder, ring, source] = [new Recorder(gpu), new ReadbackRing(gpu), tensor(1, 0)];
    const { device } = gpu;
    const createBuffer = device.createBuffer.bind(device);
    let created = 0;
    device.createBuffer = (descriptor) => {
      created++;
      return createBuffer(descriptor);
    };
    let pending: (() => Promise<ArrayBuffer>) | undefined;
    const found: number[] = [];
    try {
      for (let step = 0; step < 100; step++) {
        fill(source, step);
        const next = ring.request(recorder, source);
        recorder.submit();
        if (pending) found.push(words(await pending())[0]);
        pending = next;
      }
    } finally {
      device.createBuffer = createBuffer;
    }
    expect(found).toEqual(Array.from({ length: 99 }, (_, step) => step));
    expect(created).toBe(2);
  });

  test("reads rows, sections, and 16-bit tensors of odd size", async () => {
    const [recorder, ring, source] = [new Recorder(gpu), new ReadbackRing(gpu), tensor(200, 0)];
    const part = section(source, { name: "part", dtype: "u32", shape: [2], offset: 256 });
    const odd = section(source, { name: "odd", dtype: "f16", shape: [3], offset: 512 });
    const reads = [ring.request(recorder, rows(source, 2)), ring.request(recorder, part)];
    const readOdd = ring.request(recorder, odd);
    recorder.submit();
    expect(words(await reads[0]())).toEqual([0, 1]);
    expect(words(await reads[1]())).toEqual([64, 65]);
    expect([...new Uint16Array(await readOdd())]).toEqual([128, 0, 129]);
  });

  test("a result is given once: then its buffer may carry another", async () => {
    const [recorder, ring] = [new Recorder(gpu), new ReadbackRing(gpu)];
    const read = ring.request(recorder, tensor(1, 5));
    recorder.submit();
    await read();
    expect((await rejection(read())).message).toBe(
      "Cannot read t twice: the result of a request is given once",
    );
  });
});
