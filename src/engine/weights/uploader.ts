/** Writes to device memory, waiting for the queue now and then: that bounds the copies it holds on the host. */
import { align, type Tensor, writeTensor } from "../../gpu/tensor.ts";

/** Bytes handed to the queue before waiting for it. */
const queuedBytesMax = 128 << 20;

export class Uploader {
  readonly #device: GPUDevice;
  #bytesQueued = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Writes data at an offset of the tensor in bytes, a multiple of 4; a part of a word is filled up with zeros. */
  async write(tensor: Tensor, data: ArrayBufferView, offset: number): Promise<void> {
    writeTensor(this.#device, tensor, wholeWords(data), offset);
    this.#bytesQueued += data.byteLength;
    if (this.#bytesQueued <= queuedBytesMax) return;
    this.#bytesQueued = 0;
    await this.#device.queue.onSubmittedWorkDone();
  }
}

function wholeWords(data: ArrayBufferView): ArrayBufferView {
  const size = align(data.byteLength, 4);
  if (size === data.byteLength) return data;
  const padded = new Uint8Array(size);
  padded.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return padded;
}
