/** A model of a checkpoint folder on the process's test device, run a plan at a time; and folders changed for a test. */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "bun:test";
import { aggregate, type KvPolicy } from "../../src/engine/kv-cache/aggregate.ts";
import type { KvCacheSpec, KvDtype } from "../../src/engine/kv-cache/spec.ts";
import type { FrequencyDtype } from "../../src/engine/layers/rotary.ts";
import { ModelBuilder } from "../../src/engine/models/builder.ts";
import type { DecoderModel } from "../../src/engine/models/model.ts";
import { buildModel } from "../../src/engine/models/registry.ts";
import { Runner } from "../../src/engine/runner.ts";
import { readModelConfig } from "../../src/engine/weights/config.ts";
import { WeightLoader, type WeightDtype } from "../../src/engine/weights/loader.ts";
import { Checkpoint } from "../../src/engine/weights/safetensors.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { readWholeFile, type TestTensor, withTempDir, writeSafetensors } from "./checkpoint.ts";
import { testGpu } from "./gpu.ts";
import { mainPlan, rectangle } from "./rectangle.ts";

export interface TestModelOptions {
  dtype?: WeightDtype;
  kvDtype?: KvDtype;
  /** bf16 is what the reference checkpoints' logits were made with. */
  rotaryFrequencies?: FrequencyDtype;
  /** Kernels made for a GPU or a CPU; by adapter by default. */
  kernelsFor?: "gpu" | "cpu";
  /** The test's own device, instead of the process's. */
  gpu?: Gpu;
  /** Most sequences of a batch; 1 by default. */
  sequences?: number;
}

export interface TestModel {
  model: DecoderModel;
  runner: Runner;
  kvSpecs: readonly KvCacheSpec[];
  policy: KvPolicy;
}

const positions = 64;
const blockSize = 8;
const blocks = [3, 6, 1, 4, 8, 7, 2, 5];
/** Of each group: the null block, and more than one sequence of full length. */
const blockCount = 32;

/** For sequences of up to 64 tokens, all of which may have logits; blocks of 8 tokens, 31 of each group. */
export async function openTestModel(dir: string, options: TestModelOptions = {}): Promise<TestModel> {
  const { dtype = "auto", kvDtype = "f32", rotaryFrequencies = "f32", sequences = 1 } = options;
  const gpu = options.gpu ?? (await testGpu(options.kernelsFor));
  const config = await readModelConfig(dir);
  const checkpoint = await Checkpoint.open(dir);
  try {
    const { device } = gpu;
    const loader = new WeightLoader({ device, checkpoint, dtype });
    const maxModelLen = positions;
    const model = await buildModel(
      new ModelBuilder({ device, loader, config, maxModelLen, rotaryFrequencies }),
    );
    const limits = {
      tokens: positions,
      sequences,
      rows: positions,
      blocksPerSequence: blocks.length,
      blockSize,
    };
    const kvSpecs = model.attentions.map((layer) => layer.getKvCacheSpec({ blockSize, dtype: kvDtype }));
    const policy = aggregate([kvSpecs]);
    const blockCounts = policy.groups.map(() => blockCount);
    const parts = { gpu, model, limits, layeredTokens: positions, kvSpecs, policy, blockCounts };
    return { model, kvSpecs, policy, runner: new Runner(parts) };
  } finally {
    await checkpoint.close();
  }
}

export interface PromptOptions {
  prefixLength: number;
  /** Lengths of the steps that the prompt is cut into; left out, one. */
  cuts?: readonly number[];
}

/** Logits of every token of a prompt, [tokens, vocab]. */
export async function promptLogits(
  { runner, policy }: TestModel,
  ids: readonly number[],
  { prefixLength, cuts = [ids.length] }: PromptOptions,
): Promise<Float32Array> {
  const parts: Float32Array[] = [];
  let start = 0;
  for (const length of cuts) {
    const tokenIds = ids.slice(start, start + length);
    const tables = policy.groups.map(() => blocks);
    const chunk = rectangle({ tokenIds, start, prefixLength, tables, logits: "all" });
    parts.push(await runner.run(mainPlan(chunk), "logits").logits());
    start += length;
  }
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

/** Runs `body` with a copy of a folder's config.json and model.safetensors, the config changed. */
export function withChangedConfig<T>(
  dir: string,
  change: (config: Record<string, unknown>) => void,
  body: (dir: string) => Promise<T>,
): Promise<T> {
  return withTempDir((copy) => {
    copyFileSync(join(dir, "model.safetensors"), join(copy, "model.safetensors"));
    const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as Record<string, unknown>;
    change(config);
    writeFileSync(join(copy, "config.json"), JSON.stringify(config));
    return body(copy);
  });
}

/** Runs `body` with a folder that has the same config.json and other tensors. */
export function withChangedTensors<T>(
  dir: string,
  change: (tensors: TestTensor[]) => TestTensor[],
  body: (dir: string) => Promise<T>,
): Promise<T> {
  return withTempDir((copy) => {
    copyFileSync(join(dir, "config.json"), join(copy, "config.json"));
    const tensors = change(readWholeFile(join(dir, "model.safetensors")));
    writeSafetensors(join(copy, "model.safetensors"), tensors);
    return body(copy);
  });
}

/** A matrix cut into parts of these rows, in order. */
export function splitRows(
  { dtype, shape: [rows, columns], bytes }: TestTensor,
  parts: readonly { name: string; rows: number }[],
): TestTensor[] {
  const rowBytes = bytes.length / rows;
  let first = 0;
  return parts.map(({ name, rows: count }) => {
    const begin = first * rowBytes;
    first += count;
    return { name, dtype, shape: [count, columns], bytes: bytes.slice(begin, first * rowBytes) };
  });
}

export function expectSameBits(actual: Float32Array, wanted: Float32Array): void {
  expect(actual.length).toBe(wanted.length);
  expect(actual.findIndex((value, index) => !Object.is(value, wanted[index]))).toBe(-1);
}

/** ||actual - expected|| / ||expected||; infinite if a value is not a number. */
export function relativeRms(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length || !actual.every(Number.isFinite)) return Infinity;
  const squares = (value: (index: number) => number) =>
    expected.reduce((sum, _, index) => sum + value(index) ** 2, 0);
  return Math.sqrt(squares((i) => actual[i] - expected[i]) / squares((i) => expected[i]));
}
