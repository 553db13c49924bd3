import { expect, setDefaultTimeout, test } from "bun:test";
import { stepDispatches } from "../../src/engine/tuning-steps.ts";
import { readVerifyCases } from "../../src/engine/verify/cases.ts";
import { toleranceOf } from "../../src/engine/verify/tolerance.ts";
import { verify } from "../../src/engine/verify/verify.ts";
import { openDevice } from "../../src/gpu/device/open-device.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { tunableGroups, Tuner, type TunableDispatch } from "../../src/gpu/tuner.ts";
import { skipWithoutGpu, testGpu } from "../support/gpu.ts";
import { shared } from "../support/shared.ts";
import { openTestModel, type TestModel } from "../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(240_000);

const dir = shared("reference/tiny-hrm-text");
const lacks = skipWithoutGpu(!(await testGpu()).traits.hasSubgroups);
const fusedKernels = ["attention-decode", "combine-linear", "fused-linear", "qkv-decode"];

async function withModel<T>(body: (model: TestModel, gpu: Gpu) => Promise<T>) {
  const gpu = await openDevice({ choice: "software", checks: false, kernelsFor: "gpu" });
  try {
    return await body(await open(gpu), gpu);
  } finally {
    gpu.close();
  }
}

function open(gpu: Gpu): Promise<TestModel> {
  return openTestModel(dir, { gpu, kvDtype: "f16", rotaryFrequencies: "bf16" });
}

test.skipIf(lacks)(
  "a step of a GPU (needs subgroups): every candidate gives the default's results, and a tuned model meets its reference",
  () =>
    withModel(async (model, gpu) => {
      const groups = await groupsOf(model, gpu);
      const firsts = [
        ...new Map(groups.toReversed().map((group) => [group[0].tunable.shape.kernel, group])).values(),
      ];
      expect(firsts.map(([{ tunable }]) => tunable.shape.kernel).toSorted()).toEqual(fusedKernels);
      const tuner = new Tuner(gpu, () => performance.now());
      for (const group of firsts) {
        const { measured, rejected, shape } = await tuner.tune(group.slice(0, 1));
        expect({ shape, measured, rejected }).toEqual({
          shape,
          measured: candidates(group).length,
          rejected: [],
        });
      }

      // The last candidate of each, whatever is fastest here.
      const tuning = groups.map((group) => ({
        shape: group[0].tunable.shape,
        choice: candidates(group).at(-1)?.choice ?? {},
      }));
      gpu.useTuning(tuning);
      const tuned = await open(gpu);
      const after = await groupsOf(tuned, gpu);
      expect(after.map(([{ replace }]) => replace)).toEqual(
        groups.map((group) => candidates(group).at(-1)?.dispatch.replace),
      );
      const all = await readVerifyCases(dir, true);
      const cases = all.filter(({ promptIds, greedyIds }) => promptIds.length + greedyIds.length <= 64);
      const results = await verify(cases.slice(0, 1), {
        runner: tuned.runner,
        blockCount: 32,
        groupCount: tuned.policy.groups.length,
        vocabSize: tuned.model.config.vocabSize,
        tolerance: toleranceOf(["f16"]),
      });
      expect(results.map(({ passed }) => passed)).toEqual([true]);
    }),
);

async function groupsOf({ runner, model, policy }: TestModel, gpu: Gpu) {
  const parts = { runner, config: model.config, policy, gpu };
  return tunableGroups(await stepDispatches(parts, 1, 60));
}

function candidates([first]: readonly TunableDispatch[]) {
  return first.tunable.variants();
}
