/** From options to a runner that is ready: device, checkpoint, layers, KV memory, compiled pipelines. */
import { openDevice, type GpuChoice } from "../gpu/device/open-device.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { Profiler } from "../gpu/profile.ts";
import { CheckpointError, SetupError } from "./errors.ts";
import type { KvDtype } from "./kv-cache/spec.ts";
import type { FrequencyDtype } from "./layers/rotary.ts";
import { ModelBuilder } from "./models/builder.ts";
import type { DecoderModel } from "./models/model.ts";
import { buildModel } from "./models/registry.ts";
import { Runner } from "./runner.ts";
import { type ModelConfig, readModelConfig } from "./weights/config.ts";
import { WeightLoader, type WeightDtype } from "./weights/loader.ts";
import { Checkpoint } from "./weights/safetensors.ts";

export const kvDtypes = ["auto", "f32", "f16", "bf16"] as const;

/** Plain data: crosses the thread boundary. */
export interface EngineOptions {
  /** Folder of the checkpoint. */
  modelDir: string;
  gpu: GpuChoice;
  /** Keeps the device's validation and robust access on. */
  gpuChecks: boolean;
  dtype: WeightDtype;
  /** `auto` is f16 on a GPU and f32 on a software adapter. */
  kvDtype: (typeof kvDtypes)[number];
  /** Most tokens of prompt and answer; null is what the model was made for. */
  maxModelLen: number | null;
  /** Tokens in a KV block. */
  blockSize: number;
  /** Sequences that may be in a step together. */
  maxSequences: number;
  /** Tokens of one step; null: a whole prompt for a Prefix LM, 2048 for a causal model. */
  maxStepTokens: number | null;
  /** Rows of logits in a step. */
  maxRows: number;
  profile: boolean;
  /** f32, but for comparing with references that were made otherwise. */
  rotaryFrequencies: FrequencyDtype;
}

export const defaultEngineOptions: Omit<EngineOptions, "modelDir"> = {
  gpu: "auto",
  gpuChecks: false,
  dtype: "auto",
  kvDtype: "auto",
  maxModelLen: null,
  blockSize: 16,
  maxSequences: 1,
  maxStepTokens: null,
  maxRows: 1,
  profile: false,
  rotaryFrequencies: "f32",
};

export interface LoadedEngine {
  gpu: Gpu;
  config: ModelConfig;
  model: DecoderModel;
  runner: Runner;
  maxModelLen: number;
  isPrefixLm: boolean;
  profiler: Profiler | undefined;
}

export type LoadStage = "device" | "weights" | "kernels";
export type OnLoadProgress = (progress: {
  stage: LoadStage;
  done: number;
  all: number;
  note?: string;
}) => void;

const causalStepTokens = 2048;

/** Throws `SetupError`, `CheckpointError`, or `RangeError` when the device cannot hold what was asked for. */
export async function loadEngine(
  options: EngineOptions,
  onProgress: OnLoadProgress = () => {},
): Promise<LoadedEngine> {
  const config = await readModelConfig(options.modelDir);
  const maxModelLen = checkedMaxModelLen(options.maxModelLen, config.maxPositions);
  const gpu = await openDevice({ choice: options.gpu, checks: options.gpuChecks });
  try {
    onProgress({ stage: "device", done: 1, all: 1, note: gpu.describe() });
    return await loadOn({ gpu, config, options, maxModelLen, onProgress });
  } catch (error) {
    gpu.close();
    throw error;
  }
}

interface LoadOptions {
  gpu: Gpu;
  config: ModelConfig;
  options: EngineOptions;
  maxModelLen: number;
  onProgress: OnLoadProgress;
}

async function loadOn(parts: LoadOptions): Promise<LoadedEngine> {
  const { gpu, config, options, maxModelLen, onProgress } = parts;
  const profiler = options.profile ? new Profiler(gpu) : undefined;
  const model = await loadModel(parts);
  const kvDtype = options.kvDtype === "auto" ? (gpu.traits.isCpu ? "f32" : "f16") : options.kvDtype;
  const blockSpecs = model.attentions.map((layer) =>
    layer.getKvCacheSpec({ blockSize: options.blockSize, dtype: kvDtype }),
  );
  const isPrefixLm = blockSpecs.some((spec) => spec.kind === "full-attention" && spec.nonCausal);
  const tokens =
    options.maxStepTokens ?? (isPrefixLm ? maxModelLen : Math.min(maxModelLen, causalStepTokens));
  const runner = makeRunner({ gpu, model, options, maxModelLen, kvDtype, tokens, profiler });
  await runner.compile(warmUpCounts, (done, all) => onProgress({ stage: "kernels", done, all }));
  gpu.assertAlive();
  return { gpu, config, model, runner, maxModelLen, isPrefixLm, profiler };
}

/** Token counts around which kernels change their variant. */
const warmUpCounts = [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 64, 128];

async function loadModel(parts: LoadOptions): Promise<DecoderModel> {
  const { gpu, config, options, maxModelLen, onProgress } = parts;
  const checkpoint = await Checkpoint.open(options.modelDir);
  try {
    const loader = new WeightLoader({
      device: gpu.device,
      checkpoint,
      dtype: options.dtype,
      onProgress: (done, all) => onProgress({ stage: "weights", done, all }),
    });
    const { rotaryFrequencies } = options;
    const builder = new ModelBuilder({ device: gpu.device, loader, config, maxModelLen, rotaryFrequencies });
    return await buildModel(builder);
  } catch (error) {
    if (error instanceof RangeError) throw new CheckpointError(error.message);
    throw error;
  } finally {
    await checkpoint.close();
  }
}

interface MakeRunnerOptions {
  gpu: Gpu;
  model: DecoderModel;
  options: EngineOptions;
  maxModelLen: number;
  kvDtype: KvDtype;
  tokens: number;
  profiler: Profiler | undefined;
}

function makeRunner({
  gpu,
  model,
  options,
  maxModelLen,
  kvDtype,
  tokens,
  profiler,
}: MakeRunnerOptions): Runner {
  const { blockSize, maxSequences, maxRows } = options;
  const blocksPerSequence = Math.ceil(maxModelLen / blockSize);
  const limits = { tokens, sequences: maxSequences, rows: maxRows, blocksPerSequence, blockSize };
  // Block 0 is the null block: whatever is written to it is lost.
  const blockCount = blocksPerSequence * maxSequences + 1;
  return new Runner({ gpu, model, limits, kvDtype, blockCount, profiler });
}

function checkedMaxModelLen(asked: number | null, maxPositions: number): number {
  if (asked === null) return maxPositions;
  if (asked > maxPositions) {
    throw new SetupError(
      `Cannot use --max-model-len ${asked}: the model has positions for ${maxPositions} tokens`,
    );
  }
  return asked;
}
