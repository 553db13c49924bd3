import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";
import { tokenGrid } from "./token-grid.ts";

export const maskLogitsSpec: KernelSpec = {
  name: "mask-logits",
  files: ["mask-logits"],
  params: { rows: "u32", vocab: "u32", masks: "u32", words: "u32" },
  tensors: {
    masks: tensor("read", "u32", "masks words"),
    mask_of_row: tensor("read", "u32", "rows"),
    logits: tensor("read_write", "f32", "rows vocab"),
  },
};

/** In `maskOfRow`: every token of the row is allowed. */
export const NO_MASK = 0xffffffff;

/** Words of a mask: token t is allowed if bit t % 32 of word t / 32 is set. */
export function maskWords(vocab: number): number {
  return Math.ceil(vocab / 32);
}

export interface MaskLogitsOptions {
  /** u32 [masks, words]; rows may share a mask. */
  masks: Tensor;
  /** u32 [rows]: the mask's index, or NO_MASK. */
  maskOfRow: Tensor;
  /** f32 [rows, vocab], changed in place. */
  logits: Tensor;
}

/** Makes the logits of tokens that a row's mask does not allow the most negative finite number (FORBIDDEN_LOGIT). */
export function maskLogits(traits: GpuTraits, { masks, maskOfRow, logits }: MaskLogitsOptions): Dispatch {
  const tensors = { masks, mask_of_row: maskOfRow, logits };
  const sizes = matchTensors(maskLogitsSpec, tensors);
  const { rows, vocab, words } = sizes;
  if (words !== maskWords(vocab)) {
    throw new TypeError(
      `Cannot run mask-logits: expected masks to have ${maskWords(vocab)} words, got ${words} (${masks.name})`,
    );
  }
  const span = traits.isCpu ? 32 : 1; // a lane on a CPU takes a word; neighbours on a GPU take neighbouring logits
  const { lanes, workgroups } = tokenGrid(traits, rows, Math.ceil(vocab / span));
  return {
    spec: maskLogitsSpec,
    file: "mask-logits",
    constants: { LANES: lanes, SPAN: span },
    tensors,
    params: { rows, vocab, masks: sizes.masks, words },
    workgroups,
    bytes: 4 * rows * (vocab + words),
    flops: 0,
  };
}
