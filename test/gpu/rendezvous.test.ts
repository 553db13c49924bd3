import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { rendezvous } from "../../src/gpu/kernels/rendezvous.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import { createTensor } from "../../src/gpu/tensor.ts";
import { testGpu } from "../support/gpu.ts";
import { readU32 } from "../support/read-tensor.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);

describe("rendezvous", () => {
  test("counts those that run at once, and ends though others do not", async () => {
    const result = createTensor(gpu.device, { name: "result", dtype: "u32", shape: [4], readable: true });
    const recorder = new Recorder(gpu);
    recorder.add(rendezvous({ result, workgroups: 50, lanes: 16, bytes: 256, patience: 100 }));
    recorder.submit();
    const [came, counted, isDone] = await readU32(gpu, result);
    expect(came).toBe(50);
    expect(counted).toBeGreaterThanOrEqual(1);
    expect(counted).toBeLessThanOrEqual(50);
    expect(isDone).toBe(1);
  });
});
