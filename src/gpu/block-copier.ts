/**
 * Copies blocks of KV tensors before the compute pass of a submission, for copy-on-write.
 *
 * WebGPU does not copy within one buffer, so a block goes through a staging buffer: out of all tensors first, then
 * back into all, which leaves the device two groups of independent copies.
 */
import type { Recorder } from "./recorder.ts";
import { bytesPerElement, elementCount, type Tensor } from "./tensor.ts";

export class BlockCopier {
  readonly #device: GPUDevice;
  #staging: GPUBuffer | undefined;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /**
   * Copies block `from` over block `to` (indices of the outermost dimension) in each tensor and its scales, before the
   * pass of the recorder's next submission and after copies asked for earlier. The tensors must be readable and a block a multiple
   * of 4 bytes. Throws RangeError for a block that a tensor does not have.
   */
  copy(recorder: Recorder, caches: readonly Tensor[], { from, to }: { from: number; to: number }): void {
    const tensors = caches.flatMap((cache) => (cache.scales ? [cache, cache.scales] : [cache]));
    for (const tensor of tensors) {
      checkBlock(tensor, from);
      checkBlock(tensor, to);
    }
    if (from === to) return;
    const staging = this.#reserve(tensors.reduce((sum, tensor) => sum + blockBytes(tensor), 0));
    recorder.addBeforePass((encoder) => {
      let at = 0;
      for (const tensor of tensors) {
        const size = blockBytes(tensor);
        encoder.copyBufferToBuffer(tensor.buffer.gpu, tensor.offset + from * size, staging, at, size);
        at += size;
      }
      at = 0;
      for (const tensor of tensors) {
        const size = blockBytes(tensor);
        encoder.copyBufferToBuffer(staging, at, tensor.buffer.gpu, tensor.offset + to * size, size);
        at += size;
      }
    });
  }

  /** A buffer outgrown stays alive for the copies that were recorded with it. */
  #reserve(size: number): GPUBuffer {
    if (!this.#staging || this.#staging.size < size) {
      const usage = GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
      this.#staging = this.#device.createBuffer({ label: "block-copies", size, usage });
    }
    return this.#staging;
  }
}

function blockBytes({ shape, dtype }: Tensor): number {
  return elementCount(shape.slice(1)) * bytesPerElement[dtype];
}

function checkBlock({ name, shape }: Tensor, block: number): void {
  if (!(Number.isInteger(block) && block >= 0 && block < shape[0])) {
    throw new RangeError(`Cannot copy block ${block} of tensor ${name}: expected one of ${shape[0]} blocks`);
  }
}
