import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type GpuChoice, openDevice } from "../../src/gpu/device/open-device.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { add } from "../../src/gpu/kernels/add.ts";
import { rmsNorm } from "../../src/gpu/kernels/rms-norm.ts";
import { Profiler } from "../../src/gpu/profile.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import { createTensor } from "../../src/gpu/tensor.ts";
import { skipWithoutGpu, testGpu } from "../support/gpu.ts";
import { readF32 } from "../support/read-tensor.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const choice = (process.env.PRELUDE_GPU as GpuChoice | undefined) ?? "software";
const gpu = await testGpu();
const hasTimestamps = gpu.device.features.has("timestamp-query");

function tensor(name: string) {
  return createTensor(gpu.device, { name, dtype: "f32", shape: [64, 1024], readable: true });
}

describe("Profiler", () => {
  test.skipIf(skipWithoutGpu(!hasTimestamps))(
    "sums up calls, time and traffic by kernel, over submissions",
    async () => {
      const profiler = new Profiler(gpu);
      const recorder = new Recorder(gpu, profiler);
      const [a, b, y] = [tensor("a"), tensor("b"), tensor("y")];
      const sum = add(gpu.traits, { a, b, y });
      const norm = rmsNorm(gpu.traits, { x: a, y, eps: 1e-6 });
      for (let step = 0; step < 3; step++) {
        for (const dispatch of [sum, sum, norm]) recorder.add(dispatch);
        recorder.submit();
      }
      const report = await profiler.report();
      const calls = Object.fromEntries(report.map((row) => [row.kernel, row.calls]));
      expect(calls).toEqual({ [sum.file]: 6, [norm.file]: 3 });
      for (const row of report) {
        const { bytes, flops } = row.kernel === sum.file ? sum : norm;
        expect(row.milliseconds).toBeGreaterThan(0);
        expect(row.milliseconds).toBeLessThan(60_000);
        expect(row.gigabytesPerSecond).toBeCloseTo((row.calls * bytes) / row.milliseconds / 1e6, 6);
        expect(row.teraflopsPerSecond).toBeCloseTo((row.calls * flops) / row.milliseconds / 1e9, 9);
      }
      expect(report[0].milliseconds).toBeGreaterThanOrEqual(report[1].milliseconds);
    },
  );

  test.skipIf(skipWithoutGpu(!hasTimestamps))(
    "a step of more dispatches than a query set holds is all counted",
    async () => {
      const profiler = new Profiler(gpu);
      const recorder = new Recorder(gpu, profiler);
      const small = (name: string) =>
        createTensor(gpu.device, { name, dtype: "f32", shape: [1, 4], readable: true });
      const dispatch = add(gpu.traits, { a: small("a"), b: small("b"), y: small("y") });
      for (let index = 0; index < 2100; index++) recorder.add(dispatch);
      recorder.submit();
      expect((await profiler.report()).map(({ calls }) => calls)).toEqual([2100]);
      expect(await readF32(gpu, dispatch.tensors.y)).toEqual([0, 0, 0, 0]);
    },
  );

  test.skipIf(skipWithoutGpu(!hasTimestamps))(
    "a device closed in between fails the report at most",
    async () => {
      const own = await openDevice({ choice, checks: true });
      const profiler = new Profiler(own);
      const recorder = new Recorder(own, profiler);
      const small = () => createTensor(own.device, { name: "t", dtype: "f32", shape: [1, 4] });
      recorder.add(add(own.traits, { a: small(), b: small(), y: small() }));
      recorder.submit();
      own.close();
      // An unhandled rejection would fail the run.
      for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
      await profiler.report().catch(() => {}); // some runtimes finish the read
    },
  );

  test("is refused on an adapter that cannot tell the time", () => {
    const without = { device: { features: new Set() }, adapterName: "Old" } as unknown as Gpu;
    expect(() => new Profiler(without)).toThrow("Cannot profile on Old: it has no timestamp queries");
  });
});
