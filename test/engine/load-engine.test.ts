import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { CheckpointError, SetupError } from "../../src/engine/errors.ts";
import {
  defaultEngineOptions,
  type EngineOptions,
  loadEngine,
  type LoadedEngine,
  type LoadStage,
  type OnLoadProgress,
} from "../../src/engine/load-engine.ts";
import { type TestTensor, withTempDir } from "../support/checkpoint.ts";
import { rejection } from "../support/rejection.ts";
import { shared } from "../support/shared.ts";
import { withChangedConfig, withChangedTensors } from "../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const llama = shared("reference/tiny-llama");

function options(modelDir: string, changes: Partial<EngineOptions> = {}): EngineOptions {
  const gpu = (process.env.PRELUDE_GPU ?? "software") as EngineOptions["gpu"];
  return { ...defaultEngineOptions, modelDir, gpu, gpuChecks: true, maxModelLen: 64, ...changes };
}

async function failure(modelDir: string, changes: Partial<EngineOptions> = {}): Promise<Error> {
  return rejection(loadEngine(options(modelDir, changes)));
}

type Progress = Parameters<OnLoadProgress>[0];

interface Loaded {
  engine: LoadedEngine;
  progress: Progress[];
  /** What was said of memory. */
  notes: string[];
}

const sizes = { maxBatchedTokens: 128, maxSequences: 4 };

/** Loads for four sequences, and closes the device after `body`. */
async function withEngine(
  modelDir: string,
  changes: Partial<EngineOptions>,
  body: (loaded: Loaded) => void,
): Promise<void> {
  const progress: Progress[] = [];
  const engine = await loadEngine(options(modelDir, { ...sizes, ...changes }), (step) => {
    progress.push(step);
  });
  const notes = progress.flatMap(({ stage, note }) => (stage === "memory" && note ? [note] : []));
  try {
    body({ engine, progress, notes });
  } finally {
    engine.gpu.close();
  }
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

  test("a step with less tokens than sequences", async () => {
    const error = await failure(llama, { maxBatchedTokens: 3, maxSequences: 4 });
    expect(error).toBeInstanceOf(SetupError);
    expect(error.message).toContain("4 sequences at once with --max-num-batched-tokens 3");
  });
});

describe("loadEngine", () => {
  test("tells its stages in order, each to its end; what it loads fits the sizes", async () => {
    await withEngine(llama, {}, ({ engine, progress, notes }) => {
      const stages: LoadStage[] = ["device", "weights", "memory", "kernels"];
      expect([...new Set(progress.map(({ stage }) => stage))]).toEqual(stages);
      for (const name of stages) {
        const steps = progress.filter(({ stage }) => stage === name);
        const counts = steps.map(({ done }) => done);
        expect(counts).toEqual([...new Set(counts)].toSorted((a, b) => a - b));
        expect(counts[0]).toBeGreaterThan(0);
        expect(counts.at(-1)).toBe(steps.at(-1)?.all);
      }
      expect(engine.maxModelLen).toBe(64);
      // A row for each sequence, and of prompts' own logits as many as tokens: the vocabulary is small.
      const limits = { tokens: 128, sequences: 4, rows: 4 + 128, blocksPerSequence: 4, blockSize: 16 };
      expect(engine.runner.limits).toEqual(limits);
      expect(engine.policy).toMatchObject({ nonCausal: false, prefillCut: "tokens", prefixReuse: "blocks" });
      expect(notes[0]).toContain("sequences of 64 tokens");
      // Left to itself: enough for every sequence at full length.
      expect(engine.blocks.blockCounts[0]).toBeGreaterThan(4 * 4);
    });
  });

  test("a Prefix LM is cut along layers and shared whole, and says so although both are asked for", async () => {
    const asked = { chunkedPrefill: true, prefixCaching: true };
    await withEngine(shared("reference/tiny-hrm-text"), asked, ({ engine, notes }) => {
      expect(engine.policy).toMatchObject({ nonCausal: true, prefillCut: "layers", prefixReuse: "whole" });
      expect(notes.length).toBe(3);
      expect(notes[0]).toContain("Disabling chunked prefill along tokens");
      expect(notes[1]).toContain("Disabling prefix caching by block");
    });
  });

  test("each window has a group of blocks", async () => {
    await withEngine(shared("reference/tiny-gemma3"), {}, ({ engine }) => {
      expect(engine.policy.groups.map(({ window }) => window)).toEqual([16, null]);
      expect(engine.blocks.blockCounts.length).toBe(2);
    });
  });

  test("there are as many blocks as were asked for, more than are of use too, and the null block", async () => {
    await withEngine(llama, { numBlocks: 300 }, ({ engine, notes }) => {
      expect(engine.blocks.blockCounts).toEqual([301]);
      expect(notes.at(-1)).toContain("300 blocks of 16 tokens");
    });
  });
});
