import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Dispatch } from "../../src/gpu/kernel.ts";
import { add } from "../../src/gpu/kernels/add.ts";
import { embedding } from "../../src/gpu/kernels/embedding.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import { createTensor, rows, type Tensor, writeTensor } from "../../src/gpu/tensor.ts";
import { testGpu } from "../support/gpu.ts";
import { readF32 } from "../support/read-tensor.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

function tensor(shape: number[], value = 0): Tensor {
  const created = createTensor(gpu.device, { name: "t", dtype: "f32", shape, readable: true });
  writeTensor(gpu.device, created, new Float32Array(shape[0] * shape[1]).fill(value));
  return created;
}

/** y = scale * (a row of ones): the scale is a param. */
function scaled(scale: number, y = tensor([1, 8])): Dispatch {
  const ids = createTensor(gpu.device, { name: "ids", dtype: "u32", shape: [1] });
  return embedding(gpu.traits, { ids, table: ones, y, scale });
}

const ones = tensor([1, 8], 1);

/** Counts the calls of a method of the device while `body` runs. */
function countCalls(name: "createBindGroup" | "createBuffer", body: () => void): number {
  const device = gpu.device as unknown as Record<string, (descriptor: unknown) => unknown>;
  const original = device[name];
  let count = 0;
  device[name] = (descriptor) => {
    count++;
    return original.call(gpu.device, descriptor);
  };
  try {
    body();
  } finally {
    device[name] = original;
  }
  return count;
}

function submit(recorder: Recorder, dispatches: readonly Dispatch[]): void {
  for (const dispatch of dispatches) recorder.add(dispatch);
  recorder.submit();
}

describe("Recorder", () => {
  test("a dispatch sees what those before it wrote", async () => {
    const [a, b, c] = [tensor([3, 4], 1), tensor([3, 4]), tensor([3, 4])];
    const recorder = new Recorder(gpu);
    submit(recorder, [
      add(gpu.traits, { a, b: a, y: b }),
      add(gpu.traits, { a: b, b: a, y: c }),
      add(gpu.traits, { a: c, b: c, y: b }),
    ]);
    expect(await readF32(gpu, b)).toEqual(Array.from({ length: 12 }, () => 6));
  });

  test("a repeated step creates no bind group, also with fewer rows; another tensor needs one", () => {
    const [a, b, y] = [tensor([4, 4], 1), tensor([4, 4], 1), tensor([4, 4])];
    const recorder = new Recorder(gpu);
    const step = (count: number) =>
      submit(recorder, [
        add(gpu.traits, { a: rows(a, count), b: rows(b, count), y: rows(y, count) }),
        add(gpu.traits, { a: rows(y, count), b: rows(b, count), y: rows(a, count) }),
      ]);
    expect(countCalls("createBindGroup", () => step(4))).toBe(2);
    expect(countCalls("createBindGroup", () => [4, 3, 1].forEach(step))).toBe(0);
    const other = tensor([4, 4]);
    const changed = () => submit(recorder, [add(gpu.traits, { a, b, y: other })]);
    expect(countCalls("createBindGroup", changed)).toBe(1);
  });

  test("one dispatch may come several times in a step, and stand beside others in the next", async () => {
    const [a, b, y, z] = [tensor([2, 4], 1), tensor([2, 4], 2), tensor([2, 4]), tensor([2, 4])];
    const there = add(gpu.traits, { a, b, y });
    const back = add(gpu.traits, { a: y, b, y: a });
    const recorder = new Recorder(gpu);
    submit(recorder, [there, back, there, back]);
    expect(await readF32(gpu, a)).toEqual(Array.from({ length: 8 }, () => 9));
    submit(recorder, [there, add(gpu.traits, { a: y, b, y: z }), back, there]);
    expect(await readF32(gpu, z)).toEqual(Array.from({ length: 8 }, () => 13));
    expect(await readF32(gpu, y)).toEqual(Array.from({ length: 8 }, () => 15));
    // The same memory in fewer rows: after that, the slot's params are no longer those of `there`.
    submit(recorder, [back, add(gpu.traits, { a: rows(a, 1), b: rows(b, 1), y: rows(y, 1) })]);
    expect((await readF32(gpu, y)).filter((_, i) => i % 4 === 0)).toEqual([19, 15]);
    submit(recorder, [there]);
    expect(await readF32(gpu, y)).toEqual(Array.from({ length: 8 }, () => 19));
  });

  test("a repeated step allocates nothing", () => {
    const recorder = new Recorder(gpu);
    const dispatches = Array.from({ length: 100 }, (_, index) => scaled(index));
    submit(recorder, dispatches);
    expect(countCalls("createBuffer", () => submit(recorder, dispatches))).toBe(0);
  });

  test("every dispatch has its own params, before their buffer grows and after", async () => {
    const recorder = new Recorder(gpu);
    const first = [2, 3, 5].map((scale) => scaled(scale));
    submit(recorder, first);
    const many = Array.from({ length: 300 }, (_, index) => scaled(index + 0.5));
    submit(recorder, many);
    const again = [7, 11].map((scale, index) => scaled(scale, first[index].tensors.y));
    submit(recorder, again);
    const firsts = await Promise.all(first.map(({ tensors }) => readF32(gpu, tensors.y)));
    expect(firsts.map(([value]) => value)).toEqual([7, 11, 5]);
    for (const index of [0, 63, 64, 127, 128, 299]) {
      expect((await readF32(gpu, many[index].tensors.y))[7]).toBe(index + 0.5);
    }
  });

  test("a program runs as its dispatches would, again and again, and creates nothing more", async () => {
    const [a, b, c] = [tensor([2, 4], 1), tensor([2, 4]), tensor([2, 4])];
    const recorder = new Recorder(gpu);
    const program = recorder.program([
      add(gpu.traits, { a, b: a, y: b }),
      add(gpu.traits, { a: b, b: a, y: c }),
      add(gpu.traits, { a: c, b: b, y: a }),
    ]);
    const run = (): void => {
      recorder.add(program);
      recorder.add(add(gpu.traits, { a, b: a, y: c }));
      recorder.submit();
    };
    run(); // a: 1 -> 3 * 1 + 2 * 1
    expect(await readF32(gpu, a)).toEqual(Array.from({ length: 8 }, () => 5));
    expect(countCalls("createBindGroup", run) + countCalls("createBuffer", run)).toBe(0);
    expect(await readF32(gpu, a)).toEqual(Array.from({ length: 8 }, () => 125));
    expect(await readF32(gpu, c)).toEqual(Array.from({ length: 8 }, () => 250));
  });

  test("what was flushed is done first, with what was to come before it; what is to come after waits", async () => {
    const [a, b] = [tensor([2, 4], 1), tensor([2, 4])];
    const recorder = new Recorder(gpu);
    const order: string[] = [];
    recorder.addBeforePass(() => order.push("before"));
    recorder.addAfterPass(() => order.push("after"));
    recorder.add(add(gpu.traits, { a, b: a, y: b }));
    recorder.flush();
    expect(order).toEqual(["before"]);
    recorder.add(add(gpu.traits, { a: b, b, y: a }));
    recorder.submit();
    expect(order).toEqual(["before", "after"]);
    expect(await readF32(gpu, a)).toEqual(Array.from({ length: 8 }, () => 4));
  });

  test("the params of a program are its own: other counts over the same memory do not change them", async () => {
    const [a, b, y] = [tensor([4, 4], 1), tensor([4, 4], 1), tensor([4, 4])];
    const recorder = new Recorder(gpu);
    const program = recorder.program([add(gpu.traits, { a, b, y })]);
    submit(recorder, [add(gpu.traits, { a: rows(a, 1), b: rows(b, 1), y: rows(y, 1) })]);
    expect(await readF32(gpu, y)).toEqual(Array.from({ length: 16 }, (_, index) => (index < 4 ? 2 : 0)));
    recorder.add(program);
    recorder.submit();
    expect(await readF32(gpu, y)).toEqual(Array.from({ length: 16 }, () => 2));
  });

  test("a dispatch of nothing does nothing", async () => {
    const y = tensor([2, 4], 3);
    submit(new Recorder(gpu), [{ ...add(gpu.traits, { a: y, b: ones2, y }), workgroups: [0, 1, 1] }]);
    expect(await readF32(gpu, y)).toEqual(Array.from({ length: 8 }, () => 3));
  });

  test("take hands out what was added and forgets it", async () => {
    const recorder = new Recorder(gpu);
    const dispatch = scaled(4);
    recorder.add(dispatch);
    recorder.addAfterPass(() => {
      throw new Error("was forgotten");
    });
    expect(recorder.take()).toEqual([dispatch]);
    recorder.submit();
    expect((await readF32(gpu, dispatch.tensors.y))[0]).toBe(0);
  });

  test("a param that is missing is an error that names it", () => {
    const recorder = new Recorder(gpu);
    recorder.add({ ...scaled(1), params: { tokens: 1, channels: 8, vocab: 1, sampled_rows: 1 } });
    expect(() => recorder.submit()).toThrow("Cannot run embedding: param scale is missing");
  });
});

const ones2 = tensor([1, 4], 1);
