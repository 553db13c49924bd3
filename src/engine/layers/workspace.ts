/** Named scratch tensors, allocated once at their largest and shared by all layers that use the same name. */
import { createTensor, rows, type Tensor } from "../../gpu/tensor.ts";

export class Workspace {
  readonly #device: GPUDevice;
  readonly #tensors = new Map<string, Tensor>();
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
    const key = `${name} ${channels} ${dtype}`;
    let whole = this.#tensors.get(key);
    if (!whole) {
      whole = createTensor(this.#device, {
        name,
        dtype,
        shape: [this.#capacity, channels],
        readable: true,
      });
      this.#tensors.set(key, whole);
    }
    return rows(whole, count);
  }
}
