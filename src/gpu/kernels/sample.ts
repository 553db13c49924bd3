import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";

export const sampleSpec: KernelSpec = {
  name: "sample",
  files: ["sample"],
  params: { rows: "u32", vocab: "u32" },
  tensors: {
    logits: tensor("read", "f32", "rows vocab"),
    settings: tensor("read", "u32", "rows 8"),
    sampled: tensor("read_write", "u32", "rows"),
  },
};

/** How one row is sampled; the filters apply in the order min_p, top_k, top_p, each to what the one before kept. */
export interface SampleSettings {
  /** Below 1e-5 the arg max is taken, the lowest id on a tie. */
  temperature: number;
  /** Keep the k largest logits, and those equal to the k-th; 0 keeps all. */
  topK: number;
  /** Keep the fewest most likely tokens that reach this share, and those as likely as the last; 1 keeps all. */
  topP: number;
  /** Keep tokens at least this likely relative to the best one; 0 keeps all. */
  minP: number;
  /** 64 bits. A draw depends on seed, step and the row's logits only, never on the rest of the batch. */
  seed: bigint;
  /** How many tokens were generated before. */
  step: number;
}

/** Words of a row of the settings tensor. */
export const SAMPLE_SETTINGS_WORDS = 8;

/** Writes row `row` of the settings tensor's data (u32 [rows, 8]). */
export function writeSampleSettings(data: Uint32Array, row: number, settings: SampleSettings): void {
  const words = new DataView(data.buffer, data.byteOffset + 4 * SAMPLE_SETTINGS_WORDS * row);
  words.setFloat32(0, settings.temperature, true);
  words.setUint32(4, settings.topK, true);
  words.setFloat32(8, settings.topP, true);
  words.setFloat32(12, settings.minP, true);
  words.setBigUint64(16, BigInt.asUintN(64, settings.seed), true);
  words.setUint32(24, settings.step, true);
  words.setUint32(28, 0, true);
}

export interface SampleOptions {
  /** f32 [rows, vocab] */
  logits: Tensor;
  /** u32 [rows, 8], see `writeSampleSettings`. */
  settings: Tensor;
  /** u32 [rows]: the ids drawn. */
  sampled: Tensor;
}

/** Draws one id a row by the Gumbel-max trick. */
export function sample(traits: GpuTraits, tensors: SampleOptions): Dispatch {
  const { rows, vocab } = matchTensors(sampleSpec, { ...tensors });
  const columns = Math.min(rows, workgroupsMax);
  return {
    spec: sampleSpec,
    file: "sample",
    constants: { LANES: traits.isCpu ? cpuLanes : gpuLanes },
    tensors: { ...tensors },
    params: { rows, vocab },
    workgroups: [columns, columns && groups(rows, columns), 1],
    bytes: 4 * rows * vocab,
    flops: rows * vocab,
  };
}

const workgroupsMax = 65535;
const gpuLanes = 256;
// One SIMD group of a software adapter (4 or 8 lanes): with so few, barriers cost nothing beside the passes.
const cpuLanes = 8;
