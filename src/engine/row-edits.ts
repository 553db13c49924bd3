/** Changes to rows of logits before they are sampled: penalties, biases, bans and masks, uploaded and recorded. */
import type { GpuTraits } from "../gpu/gpu.ts";
import { ADJUSTMENT_WORDS, adjustLogits, placeAdjustments } from "../gpu/kernels/adjust-logits.ts";
import { maskLogits, NO_MASK } from "../gpu/kernels/mask-logits.ts";
import type { Recorder } from "../gpu/recorder.ts";
import { createTensor, rows, type Tensor, writeTensor } from "../gpu/tensor.ts";

/** What to change about one row. */
export interface RowEdits {
  /** u32 [entries, 4] with the token as element, as `writeAdjustment` writes them. */
  entries: Uint32Array;
  /** Allowed tokens, a bit each; null allows all. */
  mask: Uint32Array | null;
}

export function isEdit({ entries, mask }: RowEdits): boolean {
  return entries.length > 0 || mask !== null;
}

export class RowEditor {
  readonly #device: GPUDevice;
  readonly #recorder: Recorder;
  readonly #tensors = new Map<string, Tensor>();

  constructor(device: GPUDevice, recorder: Recorder) {
    this.#device = device;
    this.#recorder = recorder;
  }

  /** Records what the edits ask for; edit i is for row i of `logits`, f32 [rows, vocab]. */
  record(traits: GpuTraits, { edits, logits }: { edits: readonly RowEdits[]; logits: Tensor }): void {
    const vocab = logits.shape[1];
    const words = edits.reduce((sum, { entries }) => sum + entries.length, 0);
    if (words > 0) {
      const entries = this.#upload("adjustments", gather(edits, words, vocab), ADJUSTMENT_WORDS);
      this.#recorder.add(adjustLogits(traits, { entries, logits }));
    }
    const masks = [...new Set(edits.flatMap(({ mask }) => (mask ? [mask] : [])))];
    if (masks.length === 0) return;
    const all = new Uint32Array(masks.length * masks[0].length);
    masks.forEach((mask, index) => all.set(mask, index * mask.length));
    const chosen = Uint32Array.from(edits, ({ mask }) => (mask ? masks.indexOf(mask) : NO_MASK));
    const maskOfRow = { ...this.#upload("mask-of-row", chosen, 1), shape: [chosen.length] };
    this.#recorder.add(
      maskLogits(traits, { masks: this.#upload("masks", all, masks[0].length), maskOfRow, logits }),
    );
  }

  /** u32 [rows, columns] in a tensor that is kept and grows by doubling. */
  #upload(name: string, data: Uint32Array, columns: number): Tensor {
    const count = data.length / columns;
    let tensor = this.#tensors.get(name);
    if (!tensor || tensor.shape[0] < count || tensor.shape[1] !== columns) {
      const shape = [2 ** Math.ceil(Math.log2(count)), columns];
      // Submitted work keeps an outgrown buffer alive until it is done.
      tensor = createTensor(this.#device, { name, dtype: "u32", shape });
      this.#tensors.set(name, tensor);
    }
    writeTensor(this.#device, tensor, data);
    return rows(tensor, count);
  }
}

function gather(edits: readonly RowEdits[], words: number, vocab: number): Uint32Array {
  const data = new Uint32Array(words);
  let start = 0;
  edits.forEach(({ entries }, row) => {
    placeAdjustments(data, start, entries, { row, vocab });
    start += entries.length / ADJUSTMENT_WORDS;
  });
  return data;
}
