/**
 * Moves a checkpoint's tensors into device memory, a bounded chunk at a time, joined and converted on the way.
 * Knows names and shapes it is asked for, not what they mean.
 */
import { bytesPerElement, createTensor, type Dtype, type Tensor, writeTensor } from "../../gpu/tensor.ts";
import { CheckpointError } from "../errors.ts";
import { DTYPE_BYTES, f32ToBf16, f32ToF16, type StoredDtype, toF32 } from "./dtype.ts";
import type { Checkpoint, StoredTensor } from "./safetensors.ts";

/** `auto` keeps each matrix as it is stored. */
export const weightDtypes = ["auto", "f32", "f16", "bf16"] as const;
export type WeightDtype = (typeof weightDtypes)[number];

export interface WeightLoaderOptions {
  device: GPUDevice;
  checkpoint: Checkpoint;
  dtype: WeightDtype;
  /** Called after each chunk with the bytes read so far and in all. */
  onProgress?: (bytes: number, bytesAll: number) => void;
}

/** A tensor on disk and its number of rows (a vector's elements). */
export interface Part {
  name: string;
  rows: number;
}

/** Where a model's tensors come from: a checkpoint, or random numbers for a benchmark. */
export interface WeightSource {
  has(name: string): boolean;
  /** [sum of rows, columns]: the parts below each other. */
  matrix(parts: readonly Part[], columns: number): Promise<Tensor>;
  /** f32 [sum of rows] */
  vector(parts: readonly Part[]): Promise<Tensor>;
}

const chunkBytes = 8 << 20;
/** Bytes handed to the queue before waiting for it, which bounds the copies it holds on the host. */
const queuedBytesMax = 128 << 20;
const storedAs: Record<StoredDtype, Dtype> = { F32: "f32", F16: "f16", BF16: "bf16" };

export class WeightLoader implements WeightSource {
  readonly #options: WeightLoaderOptions;
  #bytesRead = 0;
  #bytesQueued = 0;

  constructor(options: WeightLoaderOptions) {
    this.#options = options;
  }

  has(name: string): boolean {
    return this.#options.checkpoint.has(name);
  }

  /** [sum of rows, columns]: the parts below each other. Throws `CheckpointError`; the caller owns the tensor. */
  async matrix(parts: readonly Part[], columns: number): Promise<Tensor> {
    const { checkpoint, dtype: wanted } = this.#options;
    if (columns % 8 !== 0) {
      throw new CheckpointError(`Cannot load ${parts[0].name}: expected columns in eights, got ${columns}`);
    }
    const stored = parts.map(({ name, rows }) => checkpoint.tensor(name, [rows, columns]));
    const dtype = wanted === "auto" ? storedAs[stored[0].dtype] : wanted;
    return this.#join(parts, stored, dtype, [columns]);
  }

  /** f32 [sum of sizes] of small tensors: norm weights, biases. */
  async vector(parts: readonly Part[]): Promise<Tensor> {
    const stored = parts.map(({ name, rows }) => this.#options.checkpoint.tensor(name, [rows]));
    return this.#join(parts, stored, "f32", []);
  }

  async #join(
    parts: readonly Part[],
    stored: StoredTensor[],
    dtype: Dtype,
    inner: number[],
  ): Promise<Tensor> {
    const rowCount = parts.reduce((sum, part) => sum + part.rows, 0);
    const target = createTensor(this.#options.device, {
      name: parts[0].name,
      dtype,
      shape: [rowCount, ...inner],
    });
    let offset = 0;
    for (const tensor of stored) {
      await this.#copy(tensor, target, offset);
      offset += (tensor.byteLength / DTYPE_BYTES[tensor.dtype]) * bytesPerElement[dtype];
    }
    return target;
  }

  async #copy(stored: StoredTensor, target: Tensor, targetOffset: number): Promise<void> {
    const { device, checkpoint, onProgress } = this.#options;
    const scale = bytesPerElement[target.dtype] / DTYPE_BYTES[stored.dtype];
    for await (const { offset, bytes } of checkpoint.chunks(stored, chunkBytes)) {
      const data =
        storedAs[stored.dtype] === target.dtype ? bytes : convert(bytes, stored.dtype, target.dtype);
      writeTensor(device, target, data, targetOffset + offset * scale);
      this.#bytesRead += bytes.byteLength;
      this.#bytesQueued += data.byteLength;
      onProgress?.(this.#bytesRead, checkpoint.totalBytes);
      if (this.#bytesQueued > queuedBytesMax) {
        this.#bytesQueued = 0;
        await device.queue.onSubmittedWorkDone();
      }
    }
  }
}

function convert(bytes: Uint8Array, from: StoredDtype, to: Dtype): ArrayBufferView {
  const values = toF32(bytes, from);
  if (to === "bf16") return f32ToBf16(values);
  return to === "f16" ? f32ToF16(values) : values;
}
