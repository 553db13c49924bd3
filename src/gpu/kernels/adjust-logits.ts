import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";

export const adjustLogitsSpec: KernelSpec = {
  name: "adjust-logits",
  files: ["adjust-logits"],
  params: { entries: "u32", elements: "u32" },
  tensors: {
    entries: tensor("read", "u32", "entries 4"),
    logits: tensor("read_write", "f32", "rows vocab"),
  },
};

/** Words of an entry. */
export const ADJUSTMENT_WORDS = 4;

/**
 * What a forbidden logit becomes: the most negative finite number. Sampling gives it no chance, as it gives -infinity
 * none, but shader compilers may assume that there are no infinities.
 */
export const FORBIDDEN_LOGIT = -3.4028234663852886e38;

/** What happens to one logit: x becomes x + bias; divided (or, unless positive, multiplied) by `penalty`; + addition. */
export interface Adjustment {
  /** Of a row: the token. Of the tensor: row * vocab + token. */
  element: number;
  /** Default 0. */
  bias?: number;
  /** Default 1. */
  penalty?: number;
  /** Default 0; FORBIDDEN_LOGIT forbids the token whatever the rest says. */
  addition?: number;
}

const scratch = new DataView(new ArrayBuffer(4));

/** Writes entry `index` of the entries tensor's data (u32 [entries, 4]). */
export function writeAdjustment(data: Uint32Array, index: number, adjustment: Adjustment): void {
  const { element, bias = 0, penalty = 1, addition = 0 } = adjustment;
  const at = index * ADJUSTMENT_WORDS;
  data[at] = element;
  data[at + 1] = f32Bits(bias);
  data[at + 2] = f32Bits(penalty);
  data[at + 3] = f32Bits(addition);
}

/** Copies the entries of one row, whose elements are tokens, behind `start` entries of the tensor's data. */
export function placeAdjustments(
  data: Uint32Array,
  start: number,
  entries: Uint32Array,
  place: { row: number; vocab: number },
): void {
  data.set(entries, start * ADJUSTMENT_WORDS);
  const end = start * ADJUSTMENT_WORDS + entries.length;
  for (let at = start * ADJUSTMENT_WORDS; at < end; at += ADJUSTMENT_WORDS) {
    data[at] += place.row * place.vocab;
  }
}

function f32Bits(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

export interface AdjustLogitsOptions {
  /** u32 [entries, 4], see `writeAdjustment`; no two entries may name the same element. */
  entries: Tensor;
  /** f32 [rows, vocab], changed in place. */
  logits: Tensor;
}

/** Changes single logits: biases, penalties and bans of the tokens that have any. */
export function adjustLogits(traits: GpuTraits, tensors: AdjustLogitsOptions): Dispatch {
  const { entries, rows, vocab } = matchTensors(adjustLogitsSpec, { ...tensors });
  const lanes = traits.isCpu ? 16 : 64;
  return {
    spec: adjustLogitsSpec,
    file: "adjust-logits",
    constants: { LANES: lanes },
    tensors: { ...tensors },
    params: { entries, elements: rows * vocab },
    workgroups: [Math.min(groups(entries, lanes), workgroupsMax), 1, 1],
    bytes: 24 * entries,
    flops: 3 * entries,
  };
}

const workgroupsMax = 65535;
