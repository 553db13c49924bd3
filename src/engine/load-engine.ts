/** From options to a runner that is ready: device, checkpoint, layers, KV memory, compiled pipelines. */
import { openDevice, type GpuChoice } from "../gpu/device/open-device.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { passRoom } from "../gpu/kernels/decode-pass-shape.ts";
import { countResident } from "../gpu/kernels/rendezvous.ts";
import { Profiler } from "../gpu/profile.ts";
import { align } from "../gpu/tensor.ts";
import { readTuning } from "../gpu/tuning-file.ts";
import { PROMPT_LOGITS_BYTES_MAX } from "../limits.ts";
import { CheckpointError, SetupError } from "./errors.ts";
import { probeMemory } from "../gpu/memory-probe.ts";
import { aggregate, type KvPolicy } from "./kv-cache/aggregate.ts";
import { type BlockPlan, planKvBlocks } from "./kv-cache/plan-blocks.ts";
import { bytesPerBlock, type KvCacheSpec } from "./kv-cache/spec.ts";
import { mayUseMatrixUnits } from "./layers/fusion.ts";
import type { FrequencyDtype } from "./layers/rotary.ts";
import { ModelBuilder } from "./models/builder.ts";
import type { DecoderModel } from "./models/model.ts";
import { buildModel } from "./models/registry.ts";
import { Runner } from "./runner.ts";
import type { Ordering } from "./scheduler/roster.ts";
import type { BatchLimits } from "./step-inputs.ts";
import { type ModelConfig, readModelConfig } from "./weights/config.ts";
import { DummyWeights } from "./weights/dummy.ts";
import { WeightLoader, type WeightDtype, type WeightSource } from "./weights/loader.ts";
import type { Quantization, QuantizationGroup, quantizations } from "./weights/quantization.ts";
import { QuantizationCache } from "./weights/quantization-cache.ts";
import { Checkpoint } from "./weights/safetensors.ts";

export const loadFormats = ["safetensors", "dummy"] as const;
export const kvDtypes = ["auto", "f32", "f16", "bf16", "int8"] as const;

/** Plain data: crosses the thread boundary. */
export interface EngineOptions {
  /** Folder of the checkpoint. */
  modelDir: string;
  gpu: GpuChoice;
  /** Keeps the device's validation and robust access on. */
  gpuChecks: boolean;
  dtype: WeightDtype;
  /** Format of the matrices of products; their rows are rounded in groups of `quantizationGroup` weights. */
  quantization: (typeof quantizations)[number];
  quantizationGroup: QuantizationGroup;
  /** Folder where quantised weights are kept for the next time; null keeps none. */
  quantizationCache: string | null;
  /** `dummy` makes random weights of the geometry in config.json. */
  loadFormat: (typeof loadFormats)[number];
  /** `auto` is f16 on a GPU and f32 on a software adapter. */
  kvDtype: (typeof kvDtypes)[number];
  /** Most tokens of prompt and answer; null is what the model was made for. */
  maxModelLen: number | null;
  /** Tokens in a KV block. */
  blockSize: number;
  /** Work of a step in tokens through all passes; null is 2048 on a GPU and 256 on a software adapter. */
  maxBatchedTokens: number | null;
  /** Sequences that run at once; null is 64 on a GPU and 16 on a software adapter. */
  maxSequences: number | null;
  /** Rows of logits in a step; null is one a sequence, and as many of prompts' own as their memory allows. */
  maxRows: number | null;
  /** KV blocks (of the largest group of layers); null takes what the device grants. */
  numBlocks: number | null;
  /** Share of the device's free memory that KV may take. */
  memoryUtilization: number;
  /** Cut prompts along tokens where the model allows it; otherwise they are cut along layers. */
  chunkedPrefill: boolean;
  prefixCaching: boolean;
  ordering: Ordering;
  /** Only kernels whose result for a token does not depend on the batch. */
  deterministic: boolean;
  /** File of a tuning; `auto`: the one for the adapter, if there is one; `none`: the defaults, as a deterministic engine has anyway. */
  tuning: string;
  /** File for the timeline of steps, or null. */
  traceFile: string | null;
  profile: boolean;
  /** f32, but for comparing with references that were made otherwise. */
  rotaryFrequencies: FrequencyDtype;
}

export const defaultEngineOptions: Omit<EngineOptions, "modelDir"> = {
  gpu: "auto",
  gpuChecks: false,
  dtype: "auto",
  quantization: "none",
  quantizationGroup: 32,
  quantizationCache: null,
  loadFormat: "safetensors",
  kvDtype: "auto",
  maxModelLen: null,
  blockSize: 16,
  maxBatchedTokens: null,
  maxSequences: null,
  maxRows: null,
  numBlocks: null,
  memoryUtilization: 0.9,
  chunkedPrefill: true,
  prefixCaching: true,
  ordering: "fcfs",
  deterministic: false,
  tuning: "none",
  traceFile: null,
  profile: false,
  rotaryFrequencies: "f32",
};

export interface LoadedEngine {
  gpu: Gpu;
  config: ModelConfig;
  model: DecoderModel;
  runner: Runner;
  policy: KvPolicy;
  kvSpecs: readonly KvCacheSpec[];
  blocks: BlockPlan;
  maxBatchedTokens: number;
  maxModelLen: number;
  profiler: Profiler | undefined;
}

export type LoadStage = "device" | "weights" | "memory" | "kernels";
export type OnLoadProgress = (progress: {
  stage: LoadStage;
  done: number;
  all: number;
  note?: string;
}) => void;

/** What is chosen by the kind of adapter where the user leaves it open. */
const defaults = {
  gpu: { maxBatchedTokens: 2048, maxSequences: 64, kvDtype: "f16", kvBytesMax: Infinity },
  // A software adapter's memory is the machine's: the KV cache takes a modest part of it.
  cpu: { maxBatchedTokens: 256, maxSequences: 16, kvDtype: "f32", kvBytesMax: 1 << 30 },
} as const;

/** Throws `SetupError`, `CheckpointError`, or `RangeError` when the device cannot hold what was asked for. */
export async function loadEngine(
  options: EngineOptions,
  onProgress: OnLoadProgress = () => {},
): Promise<LoadedEngine> {
  const config = await readModelConfig(options.modelDir);
  const maxModelLen = checkedMaxModelLen(options.maxModelLen, config.maxPositions);
  const gpu = await openDevice({
    choice: options.gpu,
    checks: options.gpuChecks,
    deterministic: options.deterministic,
  });
  try {
    onProgress({ stage: "device", done: 1, all: 1, note: gpu.describe() });
    const note = await useTuning(gpu, options);
    if (note) onProgress({ stage: "device", done: 1, all: 1, note });
    await countWorkgroups(gpu);
    return await loadOn({ gpu, config, options, maxModelLen, onProgress });
  } catch (error) {
    gpu.close();
    throw error;
  }
}

/** A line for people, if there is something to say. */
async function useTuning(gpu: Gpu, { tuning: path, deterministic }: EngineOptions): Promise<string | null> {
  if (path === "none" || deterministic) return null;
  const { tuning, note } = await readTuning(gpu, path);
  gpu.useTuning(tuning);
  return note;
}

/** Finds out how many workgroups may wait for each other, where kernels do. */
async function countWorkgroups(gpu: Gpu): Promise<void> {
  const { isCpu, hasSubgroups, deterministic } = gpu.traits;
  if (isCpu || !hasSubgroups || deterministic) return;
  const { lanes, bytes } = passRoom(gpu.traits);
  gpu.useResidentWorkgroups(await countResident(gpu, { lanes, bytes }));
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
  const chosen = gpu.traits.isCpu ? defaults.cpu : defaults.gpu;
  const profiler = options.profile ? new Profiler(gpu) : undefined;
  const model = await loadModel(parts);
  const asked = options.kvDtype === "auto" ? chosen.kvDtype : options.kvDtype;
  const dtype = asked === "int8" ? "i8" : asked;
  const kvSpecs = model.attentions.map((layer) =>
    layer.getKvCacheSpec({ blockSize: options.blockSize, dtype }),
  );
  const { chunkedPrefill, prefixCaching } = options;
  const policy = aggregate([kvSpecs], { chunkedPrefill, prefixCaching });
  for (const note of policy.notices) onProgress({ stage: "memory", done: 0, all: 1, note });
  const maxBatchedTokens = options.maxBatchedTokens ?? chosen.maxBatchedTokens;
  const sequences = options.maxSequences ?? Math.min(chosen.maxSequences, maxBatchedTokens);
  checkBudget(maxBatchedTokens, sequences);
  const limits = {
    tokens: maxBatchedTokens,
    sequences,
    rows: options.maxRows ?? sequences + promptRows(config.vocabSize, maxBatchedTokens),
    blocksPerSequence: Math.ceil(maxModelLen / options.blockSize),
    blockSize: options.blockSize,
  };
  const layeredTokens = policy.prefillCut === "layers" ? maxModelLen : 1;
  const parameters = { gpu, model, limits, layeredTokens, kvSpecs, policy, profiler };
  const { blocks, runner } = await fitRunner(
    { ...parts, policy, kvSpecs, limits, kvBytesMax: chosen.kvBytesMax },
    (blockCounts) => new Runner({ ...parameters, blockCounts }),
  );
  const counts = [...warmUpCounts, maxBatchedTokens];
  await runner.compile(counts, (done, all) => onProgress({ stage: "kernels", done, all }));
  if (runner.decodesInOne) {
    const note = `Decoding a single sequence: a dispatch a layer pass, ${gpu.traits.residentWorkgroups} workgroups at once`;
    onProgress({ stage: "kernels", done: 1, all: 1, note });
  }
  gpu.assertAlive();
  return { gpu, config, model, runner, policy, kvSpecs, blocks, maxBatchedTokens, maxModelLen, profiler };
}

/** Precision of the memory probe, where that much is wanted at all. */
const probeStepBytes = 16 << 20;

interface PlanBlocksOptions extends LoadOptions {
  policy: KvPolicy;
  kvSpecs: readonly KvCacheSpec[];
  limits: BatchLimits;
  kvBytesMax: number;
}

const allocationsMax = 4;

/**
 * A runner with as many KV blocks as were asked for, or as the device grants; says so with the concurrency that gives.
 * A device may refuse in many tensors what it granted the probe in few: then a tenth less is tried, a few times.
 */
async function fitRunner(parts: PlanBlocksOptions, build: (blockCounts: readonly number[]) => Runner) {
  const { gpu, options, limits, onProgress } = parts;
  for (let share = 1, left = allocationsMax; ; share *= 0.9) {
    const blocks = await planBlocks(parts, share);
    const mebibytes = Math.round(blocks.bytes / 2 ** 20);
    gpu.device.pushErrorScope("out-of-memory");
    const runner = build(blocks.blockCounts);
    const refusal = await gpu.device.popErrorScope();
    if (!refusal) {
      const counts = blocks.blockCounts.map((count) => count - 1).join(" + ");
      const note = `${counts} blocks of ${limits.blockSize} tokens (${mebibytes} MiB), room for ${blocks.concurrency.toFixed(1)} sequences of ${parts.maxModelLen} tokens`;
      onProgress({ stage: "memory", done: 1, all: 1, note });
      return { blocks, runner };
    }
    runner.release();
    if (options.numBlocks !== null || --left === 0) {
      throw new SetupError(
        `Cannot allocate the KV cache: expected ${mebibytes} MiB, got a refusal of the device ` +
          `(${refusal.message.split("\n")[0]}). Lower --gpu-memory-utilization or --num-blocks`,
      );
    }
  }
}

/** The blocks that fit a share of what may be taken. */
async function planBlocks(parts: PlanBlocksOptions, share: number): Promise<BlockPlan> {
  const { gpu, options, policy, kvSpecs, limits, kvBytesMax } = parts;
  const groups = policy.groups.map(({ layers }, group) => ({
    bytesPerBlock: policy.bytesPerBlock[group],
    bytesPerTensorBlock: Math.max(...layers.map((slot) => bytesPerBlock(kvSpecs[slot]))),
    blocksPerSequence: limits.blocksPerSequence,
  }));
  // More than every sequence at full length is of no use but to the prefix cache, which gets as much again.
  const concurrencyMax = 2 * limits.sequences;
  const wanted = ({ blocksPerSequence }: { blocksPerSequence: number }) =>
    options.numBlocks ?? blocksPerSequence * concurrencyMax;
  const useful = groups.reduce((sum, group) => sum + group.bytesPerBlock * (wanted(group) + 1), 0);
  const capBytes = Math.min(kvBytesMax, align(useful / options.memoryUtilization, 16));
  const grantedBytes = await probeMemory(gpu.device, {
    capBytes,
    stepBytesMin: Math.min(probeStepBytes, capBytes),
  });
  const { maxStorageBufferBindingSize, maxBufferSize } = gpu.device.limits;
  return planKvBlocks({
    groups,
    numBlocks: options.numBlocks ?? undefined,
    utilization: options.memoryUtilization * share,
    grantedBytes,
    tensorBytesMax: Math.min(maxStorageBufferBindingSize, maxBufferSize),
    concurrencyMax,
  });
}

/** Rows of prompts' own logits in a step. */
function promptRows(vocabSize: number, maxBatchedTokens: number): number {
  const fitting = Math.floor(PROMPT_LOGITS_BYTES_MAX / (vocabSize * Float32Array.BYTES_PER_ELEMENT));
  return Math.min(maxBatchedTokens, Math.max(1, fitting));
}

function checkBudget(maxBatchedTokens: number, sequences: number): void {
  if (sequences <= maxBatchedTokens) return;
  throw new SetupError(
    `Cannot run ${sequences} sequences at once with --max-num-batched-tokens ${maxBatchedTokens}: expected a token for each`,
  );
}

/** Token counts around which kernels change their variant; those for many tokens are those of a full step. */
const warmUpCounts = [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 64, 128];

async function loadModel(parts: LoadOptions): Promise<DecoderModel> {
  const { gpu, options } = parts;
  const { dtype } = options;
  const quantization = quantizationOf(options);
  if (options.loadFormat === "dummy") {
    return modelFrom(parts, new DummyWeights(gpu.device, dtype, quantization));
  }
  const checkpoint = await Checkpoint.open(options.modelDir);
  let progress = { done: 0, all: checkpoint.totalBytes };
  const report = (note?: string) => parts.onProgress({ stage: "weights", ...progress, note });
  try {
    const onProgress = (done: number, all: number) => {
      progress = { done, all };
      report();
    };
    const cache = quantization && (await openCache(options, checkpoint, report));
    const loader = new WeightLoader({
      device: gpu.device,
      checkpoint,
      dtype,
      bf16AsF16: mayUseMatrixUnits(gpu.traits),
      quantization,
      cache,
      onProgress,
    });
    const model = await modelFrom(parts, loader);
    const [first, ...others] = loader.unquantized;
    if (first)
      report(
        `${first} and ${others.length} more are not quantised: rows are no multiple of ${options.quantizationGroup}`,
      );
    return model;
  } finally {
    await checkpoint.close();
  }
}

/** Null where weights stay as they are. */
export function quantizationOf(options: EngineOptions): Quantization | null {
  const { quantization: format, quantizationGroup: group } = options;
  return format === "none" ? null : { format, group };
}

async function openCache(
  { quantizationCache: folder }: EngineOptions,
  checkpoint: Checkpoint,
  onNote: (note: string) => void,
): Promise<QuantizationCache | null> {
  if (folder === null) return null;
  return new QuantizationCache({ folder, fingerprint: await checkpoint.fingerprint(), onNote });
}

async function modelFrom(parts: LoadOptions, loader: WeightSource): Promise<DecoderModel> {
  const { gpu, config, options, maxModelLen } = parts;
  const { rotaryFrequencies } = options;
  try {
    return await buildModel(
      new ModelBuilder({ device: gpu.device, loader, config, maxModelLen, rotaryFrequencies }),
    );
  } catch (error) {
    // A tensor over what the device can bind.
    if (error instanceof RangeError) throw new CheckpointError(error.message);
    throw error;
  }
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
