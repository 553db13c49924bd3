/**
 * Where the params of dispatches lie on the device: slots of a uniform buffer, written once a submission.
 *
 * A slot stays with the memory its dispatch works on, whatever else a step holds, so that its bind group, which names
 * the slot, can be used again. Offsets are fixed in the bind group because a dynamic one was measured to cost 2.5 us a
 * dispatch more (Dawn's Node bindings, on the host of an H100).
 */
import type { Dispatch } from "./kernel.ts";
import { align } from "./tensor.ts";

/** Bytes bound for a dispatch's params; no kernel has more. */
export const PARAM_BYTES_MAX = 64;

export class ParamSlots {
  readonly #device: GPUDevice;
  readonly #stride: number;
  #buffer: GPUBuffer;
  #words: DataView;
  /** Slots written since the last upload lie below it. */
  #dirtyEnd = 0;

  constructor(device: GPUDevice, count: number) {
    this.#device = device;
    this.#stride = align(PARAM_BYTES_MAX, device.limits.minUniformBufferOffsetAlignment);
    const size = count * this.#stride;
    this.#words = new DataView(new ArrayBuffer(size));
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    this.#buffer = device.createBuffer({ label: "params", size, usage });
  }

  get capacity(): number {
    return this.#words.byteLength / this.#stride;
  }

  /** What a bind group binds for slot `index`. */
  binding(index: number): GPUBufferBinding {
    return { buffer: this.#buffer, offset: index * this.#stride, size: PARAM_BYTES_MAX };
  }

  /** Puts a dispatch's params into slot `index`; throws when one is missing. */
  set(index: number, { spec, params }: Dispatch): void {
    let at = index * this.#stride;
    for (const name in spec.params) {
      const value = params[name];
      if (value === undefined) throw new Error(`Cannot run ${spec.name}: param ${name} is missing`);
      if (spec.params[name] === "f32") this.#words.setFloat32(at, value, true);
      else this.#words.setUint32(at, value, true);
      at += 4;
    }
    this.#dirtyEnd = Math.max(this.#dirtyEnd, index + 1);
  }

  /** Uploads what was set, as one write. */
  upload(): void {
    const bytes = this.#dirtyEnd * this.#stride;
    if (bytes > 0) this.#device.queue.writeBuffer(this.#buffer, 0, this.#words.buffer, 0, bytes);
    this.#dirtyEnd = 0;
  }
}
