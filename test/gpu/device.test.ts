/** What opening a device promises: it computes, it says what it is, and once it has failed nothing of it is believed. */
import { afterAll, describe, expect, test } from "bun:test";
import { SetupError } from "../../src/errors.ts";
import { assertComputes, type GpuChoice, isReal, openDevice } from "../../src/gpu/device/open-device.ts";
import { DeviceLostError, Gpu } from "../../src/gpu/gpu.ts";
import { add } from "../../src/gpu/kernels/add.ts";
import { ReadbackRing } from "../../src/gpu/readback.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import { createTensor, writeTensor } from "../../src/gpu/tensor.ts";
import { readF32 } from "../support/read-tensor.ts";
import { rejection } from "../support/rejection.ts";

const choice = (process.env.PRELUDE_GPU as GpuChoice | undefined) ?? "software";
const opened: Gpu[] = [];

/** A device of the test's own, which it may break. */
async function ownGpu(): Promise<Gpu> {
  const gpu = await openDevice({ choice, checks: true });
  opened.push(gpu);
  return gpu;
}

afterAll(() => {
  for (const gpu of opened) gpu.close();
});

function tensor(gpu: Gpu, name: string, values?: number[]) {
  const created = createTensor(gpu.device, { name, dtype: "f32", shape: [2, 4], readable: true });
  if (values) writeTensor(gpu.device, created, Float32Array.from(values));
  return created;
}

function addDispatch(gpu: Gpu) {
  const a = tensor(gpu, "a", [1, 2, 3, 4, 5, 6, 7, 8]);
  const b = tensor(gpu, "b", [10, 20, 30, 40, 50, 60, 70, 80]);
  return add(gpu.traits, { a, b, y: tensor(gpu, "y") });
}

/** Makes the device report an error that no error scope catches. */
function provokeError({ device }: Gpu): void {
  const usage = GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const [from, to] = [device.createBuffer({ size: 128, usage }), device.createBuffer({ size: 16, usage })];
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(from, 0, to, 0, 64);
  device.queue.submit([encoder.finish()]);
}

describe("a device", () => {
  test("computes", async () => {
    const gpu = await ownGpu();
    const dispatch = addDispatch(gpu);
    const recorder = new Recorder(gpu);
    recorder.add(dispatch);
    recorder.submit();
    expect(await readF32(gpu, dispatch.tensors.y)).toEqual([11, 22, 33, 44, 55, 66, 77, 88]);
    expect(gpu.failure).toBeNull();
  });

  test("that is a CPU has its cores to itself: Dawn asks for results once a millisecond, not in every turn", async () => {
    const gpu = await ownGpu();
    if (gpu.implementation !== "dawn" || !gpu.traits.isCpu) return;
    const dispatch = addDispatch(gpu);
    const recorder = new Recorder(gpu);
    for (let i = 0; i < 2000; i++) recorder.add(dispatch);
    const poll = globalThis.setImmediate;
    let polls = 0;
    globalThis.setImmediate = ((...given: Parameters<typeof poll>) => {
      polls++;
      return poll(...given);
    }) as typeof poll;
    try {
      const start = performance.now();
      recorder.submit();
      await readF32(gpu, dispatch.tensors.y);
      expect(polls).toBeGreaterThan(0);
      expect(polls).toBeLessThan(1.5 * (performance.now() - start) + 2);
    } finally {
      globalThis.setImmediate = poll;
    }
  });

  test("has the adapter's own limits, not the defaults", async () => {
    const { device } = await ownGpu();
    expect(device.limits.maxStorageBufferBindingSize).toBeGreaterThan(0);
    expect(device.limits.maxBufferSize).toBeGreaterThanOrEqual(device.limits.maxStorageBufferBindingSize);
  });

  test("once closed gives DeviceLostError, not zeros, and that is no failure of its own", async () => {
    const gpu = await ownGpu();
    const ring = new ReadbackRing(gpu);
    const recorder = new Recorder(gpu);
    const read = ring.request(recorder, tensor(gpu, "a", [1, 2, 3, 4, 5, 6, 7, 8]));
    recorder.submit();
    gpu.close();
    expect(await rejection(read())).toBeInstanceOf(DeviceLostError);
    expect(gpu.failure).toBeNull();
  });
});

describe("a failed device", () => {
  test("an uncaptured error rejects reads, of results from before it too, and refuses further work", async () => {
    const gpu = await ownGpu();
    const recorder = new Recorder(gpu);
    const read = new ReadbackRing(gpu).request(recorder, tensor(gpu, "a"));
    recorder.submit();
    provokeError(gpu);
    const after = readF32(gpu, tensor(gpu, "b", [1, 2, 3, 4, 5, 6, 7, 8]));
    const errors = [await rejection(read()), await rejection(after)];
    for (const error of errors) {
      expect(error).toBeInstanceOf(DeviceLostError);
      expect(error.message).toMatch(/^Cannot go on: .*64/);
    }
    expect(gpu.failure === errors[0]).toBe(true);
    expect(() => new Recorder(gpu).submit()).toThrow(DeviceLostError);
  });

  test("a lost one rejects what was asked for before, and refuses further work", async () => {
    const gpu = await ownGpu();
    const recorder = new Recorder(gpu);
    const read = new ReadbackRing(gpu).request(recorder, tensor(gpu, "a", [1, 2, 3, 4, 5, 6, 7, 8]));
    recorder.submit();
    gpu.device.destroy();
    expect(await rejection(read())).toBeInstanceOf(DeviceLostError);
    expect(gpu.failure).toBeInstanceOf(DeviceLostError);
    expect(() => recorder.submit()).toThrow(DeviceLostError);
    expect(() => gpu.assertAlive()).toThrow("Cannot go on: ");
  });
});

describe("compiling", () => {
  test("a WGSL error rejects, and names file and line", async () => {
    const gpu = await ownGpu();
    const broken = { ...addDispatch(gpu), file: "linear-matmul", replace: { PER_LANE: "this is not WGSL" } };
    const error = await rejection(gpu.pipelines.compile([broken]));
    expect(error.message).toMatch(/^Cannot compile wgsl\/linear-matmul\.wgsl: line \d+: .*expected/);
  });

  test("bindings that the shader does not have reject, and name the file", async () => {
    const gpu = await ownGpu();
    const wrong = { ...addDispatch(gpu), file: "embedding" };
    const error = await rejection(gpu.pipelines.compile([wrong]));
    expect(error.message).toMatch(/^Cannot compile wgsl\/embedding\.wgsl: /);
  });

  test("a missing file and a const that is not there are named", async () => {
    const gpu = await ownGpu();
    const missing = await rejection(gpu.pipelines.compile([{ ...addDispatch(gpu), file: "no-such" }]));
    expect(missing.message).toMatch(/^Cannot compile wgsl\/no-such\.wgsl: .*ENOENT/);
    const other = await rejection(gpu.pipelines.compile([{ ...addDispatch(gpu), replace: { NAME: "1" } }]));
    expect(other.message).toContain("Cannot replace const NAME");
  });

  test("reports its progress, and compiles a variant once", async () => {
    const gpu = await ownGpu();
    const dispatch = addDispatch(gpu);
    const other = { ...dispatch, constants: { LANES: 32 } };
    const progress: string[] = [];
    const note = (done: number, all: number) => progress.push(`${done}/${all}`);
    await gpu.pipelines.compile([dispatch, other, { ...dispatch, params: {} }], note);
    await gpu.pipelines.compile([other, dispatch], note);
    expect(progress).toEqual(["1/2", "2/2"]);
    expect(gpu.pipelines.get(dispatch)).toBe(gpu.pipelines.get({ ...dispatch }));
    expect(gpu.pipelines.get(dispatch)).not.toBe(gpu.pipelines.get(other));
  });
});

describe("choosing an adapter", () => {
  test("one that computes nothing is refused, whichever field says so", () => {
    for (const info of [
      { description: "Null backend", device: "" },
      { description: "", device: "null" },
    ]) {
      expect(() => assertComputes(info)).toThrow(SetupError);
      expect(() => assertComputes(info)).toThrow("it computes nothing. Try --gpu software");
    }
    expect(() => assertComputes({ description: "Nullarbor 4000", device: "NVIDIA H100" })).not.toThrow();
  });

  test("hardware is told from software and from nothing", () => {
    const adapter = (info: Partial<GPUAdapterInfo>) => ({ info }) as GPUAdapter;
    expect(isReal(adapter({ description: "NVIDIA H100", device: "" }))).toBe(true);
    expect(isReal(adapter({ description: "SwiftShader Device", device: "" }))).toBe(false);
    expect(isReal(adapter({ description: "llvmpipe (LLVM 15)", device: "" }))).toBe(false);
    expect(isReal(adapter({ description: "any", device: "", isFallbackAdapter: true }))).toBe(false);
    expect(isReal(adapter({ description: "Null backend", device: "" }))).toBe(false);
    expect(isReal(null)).toBe(false);
  });

  test("native needs a runtime that has WebGPU itself; software takes it where there is one", async () => {
    if ((globalThis.navigator as Partial<Navigator>).gpu) {
      const gpu = await openDevice({ choice: "software", checks: true });
      opened.push(gpu);
      expect([gpu.implementation, gpu.traits.isCpu]).toEqual(["native", true]);
      return;
    }
    const error = await rejection(openDevice({ choice: "native", checks: true }));
    expect(error).toBeInstanceOf(SetupError);
    expect(error.message).toBe(
      "Cannot use --gpu native: this runtime has no navigator.gpu. Try Deno, or --gpu dawn",
    );
  });
});

describe("describe", () => {
  function fakeGpu(info: Partial<GPUAdapterInfo>, features: string[]): Gpu {
    const device = {
      features: new Set(features),
      limits: { maxComputeWorkgroupStorageSize: 48 * 1024, maxComputeInvocationsPerWorkgroup: 1024 },
      addEventListener: () => {},
      lost: new Promise(() => {}),
    };
    return new Gpu(device as unknown as GPUDevice, info as GPUAdapterInfo, "dawn");
  }

  test("names the adapter, what is used and what is missing", () => {
    const some = fakeGpu({ description: "NVIDIA H100" }, ["shader-f16", "timestamp-query"]);
    expect(some.describe()).toBe(
      "GPU NVIDIA H100 through dawn: shader-f16; without subgroups, subgroup-matrix",
    );
    const all = ["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"];
    const matrix = { componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 };
    const info = { description: "NVIDIA H100", subgroupMinSize: 32, subgroupMaxSize: 32 };
    const withMatrices = (change: object) =>
      fakeGpu({ ...info, subgroupMatrixConfigs: [matrix], ...change } as Partial<GPUAdapterInfo>, all);
    expect(withMatrices({}).describe()).toBe(
      "GPU NVIDIA H100 through dawn: shader-f16, subgroups, subgroup-matrix",
    );
    for (const change of [
      { subgroupMatrixConfigs: undefined },
      { subgroupMatrixConfigs: [{ ...matrix, resultComponentType: "f16" }] },
      { subgroupMatrixConfigs: [{ ...matrix, M: 8, N: 8, K: 8 }] },
      { subgroupMaxSize: 64 },
    ]) {
      expect(withMatrices(change).describe()).toContain("; without subgroup-matrix");
    }
    expect(fakeGpu({ description: "llvmpipe (LLVM 15)" }, []).describe()).toBe(
      "software adapter llvmpipe (LLVM 15) through dawn: no optional features; without shader-f16, subgroups, subgroup-matrix",
    );
  });

  test("has a name for an adapter without a description", () => {
    expect(fakeGpu({ vendor: "amd", architecture: "rdna-3" }, []).adapterName).toBe("amd rdna-3");
    expect(fakeGpu({ vendor: "", architecture: "" }, []).adapterName).toBe("unnamed adapter");
  });

  test("of the device here names its adapter", async () => {
    const gpu = await ownGpu();
    expect(gpu.describe()).toContain(gpu.adapterName);
    expect(gpu.describe()).toContain(`through ${gpu.implementation}: `);
  });
});
