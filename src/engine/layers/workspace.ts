/** Named scratch tensors, allocated once at their largest and shared by all layers that use the same name. */
import { createTensor, rows, type Tensor } from "../../gpu/tensor.ts";

export class Workspace {
  readonly #device: GPUDevice;
  /** By name: one for each format and shape, and the rows of it that were asked for last, to be given again. */
  readonly #tensors = new Map<string, { whole: Tensor; last: Tensor }[]>();
  readonly #capacity: number;

  /** `capacity` is the most rows (tokens) a step may have. */
  constructor(device: GPUDevice, capacity: number) {
    this.#device = device;
    this.#capacity = capacity;
  }

  /**
   * [count, channels], f32 or as given. The same name and format give the same memory: valid until something else
   * writes to that name.
   */
  tensor(name: string, count: number, channels: number, dtype: "f32" | "f16" = "f32"): Tensor {
    return this.#rows({ name, dtype, shape: [this.#capacity, channels] }, count);
  }

  /** f32 scratch whose rows are not those of a step, at most so many: the same memory for the same name. */
  sized(name: string, [count, channels]: [number, number], rowsMax: number): Tensor {
    return this.#rows({ name, dtype: "f32", shape: [rowsMax, channels] }, count);
  }

  /** All that `words` has made. */
  get allWords(): readonly Tensor[] {
    const all = [...this.#tensors.values()].flat().map(({ whole }) => whole);
    return all.filter(({ dtype }) => dtype === "u32");
  }

  /** u32 [count], zero when it is first asked for: words that only kernels write, the same for the same name and count. */
  words(name: string, count: number): Tensor {
    return this.#kept({ name, dtype: "u32", shape: [count] }).whole;
  }

  #rows(options: ScratchOptions, count: number): Tensor {
    const kept = this.#kept(options);
    if (kept.last.shape[0] !== count) kept.last = rows(kept.whole, count);
    return kept.last;
  }

  #kept(options: ScratchOptions): { whole: Tensor; last: Tensor } {
    const { name, dtype, shape } = options;
    const named = this.#tensors.get(name) ?? [];
    const found = named.find(({ whole }) => whole.dtype === dtype && isSame(whole.shape, shape));
    if (found) return found;
    const whole = createTensor(this.#device, { ...options, readable: true });
    const made = { whole, last: whole };
    this.#tensors.set(name, [...named, made]);
    return made;
  }
}

interface ScratchOptions {
  name: string;
  dtype: "f32" | "f16" | "u32";
  shape: number[];
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}
