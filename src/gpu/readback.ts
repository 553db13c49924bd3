/** A ring of staging buffers through which results come back to JavaScript, in the order they were asked for. */
import type { Gpu } from "./gpu.ts";
import type { Recorder } from "./recorder.ts";
import { align, bytesPerElement, elementCount, type Tensor } from "./tensor.ts";

export class ReadbackRing {
  readonly #gpu: Gpu;
  readonly #free: GPUBuffer[] = [];

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  /**
   * Asks for the tensor's bytes as of the end of the recorder's next submission; call the result after submitting.
   * The bytes are a copy that the caller owns. Rejects with `DeviceLostError` rather than give zeros, and when called
   * a second time: by then the staging buffer may carry another result.
   */
  request(recorder: Recorder, tensor: Tensor): () => Promise<ArrayBuffer> {
    const bytes = elementCount(tensor.shape) * bytesPerElement[tensor.dtype];
    const size = align(bytes, 4);
    const staging = this.#take(size);
    recorder.addAfterPass((encoder) => {
      encoder.copyBufferToBuffer(tensor.buffer.gpu, tensor.offset, staging, 0, size);
    });
    let isRead = false;
    return async () => {
      if (isRead) throw new Error(`Cannot read ${tensor.name} twice: the result of a request is given once`);
      isRead = true;
      return this.#map(staging, size, bytes);
    };
  }

  async #map(staging: GPUBuffer, size: number, bytes: number): Promise<ArrayBuffer> {
    this.#gpu.assertAlive();
    try {
      await staging.mapAsync(GPUMapMode.READ, 0, size);
    } catch (error) {
      // The buffer is ours and unmapped, so it is the device that failed; some runtimes say so only later.
      throw this.#gpu.fail(`reading back: ${String(error)}`);
    }
    this.#gpu.assertAlive();
    const copy = staging.getMappedRange(0, size).slice(0, bytes);
    staging.unmap();
    this.#free.push(staging);
    return copy;
  }

  #take(size: number): GPUBuffer {
    const fitting = this.#free.findIndex((buffer) => buffer.size >= size && buffer.size <= 4 * size + 4096);
    if (fitting >= 0) return this.#free.splice(fitting, 1)[0];
    const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
    return this.#gpu.device.createBuffer({ label: "readback", size: align(size, 256), usage });
  }
}
