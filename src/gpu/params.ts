/**
 * Where the params of dispatches lie on the device: slots of a uniform buffer, written once a submission where
 * they differ from what is there.
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
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #floats: Float32Array<ArrayBuffer>;
  /** Words that differ from those on the device lie between these. */
  #dirty = { start: Infinity, end: 0 };

  constructor(device: GPUDevice, count: number) {
    this.#device = device;
    this.#stride = align(PARAM_BYTES_MAX, device.limits.minUniformBufferOffsetAlignment);
    const size = count * this.#stride;
    this.#words = new Uint32Array(size / 4);
    this.#floats = new Float32Array(this.#words.buffer);
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
    let at = (index * this.#stride) / 4;
    for (const name in spec.params) {
      const value = params[name];
      if (value === undefined) throw new Error(`Cannot run ${spec.name}: param ${name} is missing`);
      const before = this.#words[at];
      if (spec.params[name] === "f32") this.#floats[at] = value;
      else this.#words[at] = value;
      if (this.#words[at] !== before) this.#touch(at);
      at++;
    }
  }

  /** Uploads what has changed, as one write, if anything has. */
  upload(): void {
    const { start, end } = this.#dirty;
    if (start >= end) return;
    this.#device.queue.writeBuffer(this.#buffer, 4 * start, this.#words.buffer, 4 * start, 4 * (end - start));
    this.#dirty = { start: Infinity, end: 0 };
  }

  #touch(word: number): void {
    this.#dirty.start = Math.min(this.#dirty.start, word);
    this.#dirty.end = Math.max(this.#dirty.end, word + 1);
  }
}
