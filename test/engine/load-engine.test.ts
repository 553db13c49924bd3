import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "bun:test";
import { CheckpointError, SetupError } from "../../src/engine/errors.ts";
import { defaultEngineOptions, type EngineOptions, loadEngine } from "../../src/engine/load-engine.ts";
import { type TestTensor, withTempDir } from "../support/checkpoint.ts";
import { rejection } from "../support/rejection.ts";
import { shared } from "../support/shared.ts";
import { withChangedConfig, withChangedTensors } from "../support/test-model.ts";

const llama = shared("reference/tiny-llama");

function options(modelDir: string, changes: Partial<EngineOptions> = {}): EngineOptions {
  const gpu = (process.env.PRELUDE_GPU ?? "software") as EngineOptions["gpu"];
  return { ...defaultEngineOptions, modelDir, gpu, gpuChecks: true, maxModelLen: 64, ...changes };
}

async function failure(modelDir: string, changes: Partial<EngineOptions> = {}): Promise<Error> {
  return rejection(loadEngine(options(modelDir, changes)));
}

describe("loadEngine refuses", () => {
  test("an architecture that is not served, by its name", async () => {
    await withChangedConfig(
      llama,
      (config) => (config.model_type = "mamba"),
      async (dir) => {
        const error = await failure(dir);
        expect(error).toBeInstanceOf(CheckpointError);
        expect(error.message).toContain("mamba");
        expect(error.message).toContain("config.json");
      },
    );
  });

  test("a rotary embedding that is not served, by its name", async () => {
    const yarn = (config: Record<string, unknown>) =>
      (config.rope_parameters = { rope_type: "yarn", rope_theta: 10000, factor: 4 });
    await withChangedConfig(llama, yarn, async (dir) => {
      const error = await failure(dir);
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toContain("yarn");
    });
  });

  test("logits with a soft cap", async () => {
    await withChangedConfig(
      llama,
      (config) => (config.final_logit_softcapping = 30),
      async (dir) => {
        const error = await failure(dir);
        expect(error).toBeInstanceOf(CheckpointError);
        expect(error.message).toContain("expected no final_logit_softcapping, got 30");
      },
    );
  });

  test("a missing folder and an empty one", async () => {
    await withTempDir(async (dir) => {
      expect(await failure(join(dir, "nothing"))).toBeInstanceOf(CheckpointError);
      mkdirSync(join(dir, "empty"));
      expect(await failure(join(dir, "empty"))).toBeInstanceOf(CheckpointError);
    });
  });

  test("a missing tensor", async () => {
    const without = (tensors: TestTensor[]) => tensors.filter(({ name }) => name !== "model.norm.weight");
    await withChangedTensors(llama, without, async (dir) => {
      const error = await failure(dir);
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toContain("model.norm.weight");
    });
  });

  test("more positions than the model has", async () => {
    const error = await failure(llama, { maxModelLen: 257 });
    expect(error).toBeInstanceOf(SetupError);
    expect(error.message).toContain("--max-model-len 257: the model has positions for 256 tokens");
  });
});

test("loadEngine tells its stages in order, each to its end", async () => {
  const progress: { stage: string; done: number; all: number }[] = [];
  const engine = await loadEngine(options(llama), ({ stage, done, all }) =>
    progress.push({ stage, done, all }),
  );
  try {
    expect([...new Set(progress.map(({ stage }) => stage))]).toEqual(["device", "weights", "kernels"]);
    for (const stage of ["device", "weights", "kernels"]) {
      const steps = progress.filter((step) => step.stage === stage);
      steps.reduce(
        (before, step) => {
          expect(step.done).toBeGreaterThan(before.done);
          return step;
        },
        { stage, done: 0, all: 0 },
      );
      expect(steps.at(-1)?.done).toBe(steps.at(-1)?.all as number);
    }
    expect(engine.maxModelLen).toBe(64);
    expect(engine.isPrefixLm).toBe(false);
    expect(engine.runner.limits).toEqual({
      tokens: 64,
      sequences: 1,
      rows: 1,
      blocksPerSequence: 4,
      blockSize: 16,
    });
  } finally {
    engine.gpu.close();
  }
});
