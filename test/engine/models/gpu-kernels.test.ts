import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { KvDtype } from "../../../src/engine/kv-cache/spec.ts";
import { readVerifyCases } from "../../../src/engine/verify/cases.ts";
import { lossyTolerance } from "../../../src/engine/verify/lossy.ts";
import { exact, toleranceOf } from "../../../src/engine/verify/tolerance.ts";
import { verify } from "../../../src/engine/verify/verify.ts";
import { type GpuChoice, openDevice } from "../../../src/gpu/device/open-device.ts";
import { DeviceLostError, type Gpu } from "../../../src/gpu/gpu.ts";
import type { Dispatch } from "../../../src/gpu/kernel.ts";
import { type Tensor, writeTensor } from "../../../src/gpu/tensor.ts";
import { skipWithoutGpu, testGpu } from "../../support/gpu.ts";
import { shared } from "../../support/shared.ts";
import { mainPlan, rectangle } from "../../support/rectangle.ts";
import { openTestModel, type TestModel } from "../../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(240_000);

/** A few cases that fit the test model's 64 tokens; what they decode runs in small batches, as the fused kernels take. */
async function verifyWithGpuKernels(
  name: string,
  kvDtype: KvDtype,
  sequences: number,
  residentWorkgroups?: number,
) {
  const gpu = await testGpu("gpu");
  gpu.useResidentWorkgroups(residentWorkgroups);
  const dir = shared(`reference/${name}`);
  const options = { rotaryFrequencies: "bf16", kernelsFor: "gpu", kvDtype, sequences } as const;
  const { runner, model, policy, kvSpecs } = await openTestModel(dir, options);
  const isPrefixLm = model.config.hrm?.prefixLm ?? false;
  const all = await readVerifyCases(dir, isPrefixLm);
  const fitting = all.filter(({ promptIds, greedyIds }) => promptIds.length + greedyIds.length <= 64);
  const cases = fitting.slice(0, Math.max(2, sequences));
  expect(cases.length).toBeGreaterThan(1);
  const tables = policy.groups.map(() => [1]);
  const token = rectangle({ tokenIds: [5], start: 1, tables, logits: "last" });
  const kernels = runner.dispatchesOf(mainPlan(token)).map(({ file }) => file);
  expect(kernels.includes("decode-pass")).toBe(gpu.traits.hasSubgroups && residentWorkgroups !== undefined);
  return verify(cases, {
    runner,
    blockCount: 32,
    groupCount: policy.groups.length,
    vocabSize: model.config.vocabSize,
    tolerance: lossyTolerance(kvDtype === "f32" ? exact : toleranceOf([kvDtype]), {
      quantization: null,
      int8KvHeadDim: kvDtype === "i8" ? kvSpecs[0].headDim : null,
      passes: kvSpecs.length,
    }),
  });
}

/** A model whose layer passes of a token are one dispatch each, on a device of its own, which it may lose. */
async function withPasses(
  body: (model: TestModel, gpu: Gpu, handoff: Tensor) => Promise<void>,
): Promise<void> {
  const choice = (process.env.PRELUDE_GPU as GpuChoice | undefined) ?? "software";
  const gpu = await openDevice({ choice, checks: true, kernelsFor: "gpu" });
  try {
    gpu.useResidentWorkgroups(1);
    const model = await openTestModel(shared("reference/tiny-hrm-text"), { gpu });
    const [pass] = model.runner.dispatchesOf(mainPlan(token)).filter(isPass);
    await body(model, gpu, pass.tensors.handoff);
  } finally {
    gpu.close();
  }
}

const token = rectangle({ logits: "last" });
const isPass = ({ file }: Dispatch) => file === "decode-pass";
/** As a workgroup leaves them that has waited in vain. */
const waitedInVain = new Uint32Array([0, 1]);

const lacksSubgroups = skipWithoutGpu(!(await testGpu("gpu")).traits.hasSubgroups);

describe("workgroups that do not run at once (needs subgroups)", () => {
  test.skipIf(lacksSubgroups)("in the rehearsal: the kernels that need not are used", () =>
    withPasses(async ({ runner }, gpu, handoff) => {
      expect(runner.decodesInOne).toBe(true);
      writeTensor(gpu.device, handoff, waitedInVain);
      await runner.compile([1]);
      expect(runner.decodesInOne).toBe(false);
      const later = rectangle({ start: 3, logits: "last" }); // not the program that was recorded before
      expect(runner.dispatchesOf(mainPlan(later)).some(isPass)).toBe(false);
      const logits = await runner.run(mainPlan(later), "logits").logits();
      expect(logits.every(Number.isFinite)).toBe(true);
    }),
  );

  test.skipIf(lacksSubgroups)("in a step: its results are refused, and the device is given up", () =>
    withPasses(async ({ runner }, gpu, handoff) => {
      writeTensor(gpu.device, handoff, waitedInVain);
      const { logits } = runner.run(mainPlan(token), "logits");
      const error = await logits().catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(DeviceLostError);
      expect(String(error)).toContain("do not run at once");
      expect(() => gpu.assertAlive()).toThrow(DeviceLostError);
    }),
  );
});

afterAll(async () => (await testGpu("gpu")).useResidentWorkgroups(undefined));

// Gated and not, grouped heads, norms of heads, which are not fused.
describe("models with the kernels of a GPU meet their references", () => {
  test.each([
    ["tiny-hrm-text", "f16", 1],
    ["tiny-hrm-text-b", "i8", 2],
    ["tiny-llama", "f32", 4],
    ["tiny-qwen3", "f32", 2],
  ] as const)("%s, keys and values in %s, %d at once", async (name, kvDtype, sequences) => {
    const results = await verifyWithGpuKernels(name, kvDtype, sequences);
    expect(results.filter(({ passed }) => !passed)).toEqual([]);
  });

  test.each([
    ["tiny-hrm-text", "f16"],
    ["tiny-llama", "f32"],
  ] as const)("%s, a layer pass of a token in one dispatch", async (name, kvDtype) => {
    const results = await verifyWithGpuKernels(name, kvDtype, 1, 1);
    expect(results.filter(({ passed }) => !passed)).toEqual([]);
  });
});
