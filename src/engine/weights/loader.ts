/**
 * Moves a checkpoint's tensors into device memory, a bounded chunk at a time, joined, converted and quantised on the way.
 * Knows names and shapes it is asked for, not what they mean.
 */
import { bytesPerElement, createQuantized, createTensor, type Dtype, type Tensor } from "../../gpu/tensor.ts";
import { CheckpointError } from "../errors.ts";
import { DTYPE_BYTES, f32ToBf16, f32ToF16, type StoredDtype, toF32 } from "./dtype.ts";
import { type MatrixUse, type Quantization, quantizedDtype } from "./quantization.ts";
import type { QuantizationCache, QuantizedMatrix, TakeBytes } from "./quantization-cache.ts";
import { quantize, type QuantizedDtype, type QuantizedRows } from "./quantize.ts";
import type { Checkpoint, StoredTensor } from "./safetensors.ts";
import { Uploader } from "./uploader.ts";

/** `auto` keeps each matrix as it is stored, but for bfloat16 where matrix units take f16 only. */
export const weightDtypes = ["auto", "f32", "f16", "bf16"] as const;
export type WeightDtype = (typeof weightDtypes)[number];

export interface WeightLoaderOptions {
  device: GPUDevice;
  checkpoint: Checkpoint;
  /** Of matrices that are not quantised. */
  dtype: WeightDtype;
  /** With `auto`, matrices stored in bfloat16 become f16, which holds the same numbers between 2^-14 and 2^16. */
  bf16AsF16?: boolean;
  quantization?: Quantization | null;
  /** Where quantised matrices are kept for the next time. */
  cache?: QuantizationCache | null;
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
  /** [sum of rows, columns]: the parts below each other. A product by default. */
  matrix(parts: readonly Part[], columns: number, use?: MatrixUse): Promise<Tensor>;
  /** The integers a matrix of so many columns is held as, or null. */
  quantizedAs(use: MatrixUse, columns: number): QuantizedDtype | null;
  /** f32 [sum of rows] */
  vector(parts: readonly Part[]): Promise<Tensor>;
}

const chunkBytes = 8 << 20;
const storedAs: Record<StoredDtype, Dtype> = { F32: "f32", F16: "f16", BF16: "bf16" };

export class WeightLoader implements WeightSource {
  /** Matrices that could not be quantised, since their rows are no whole groups. */
  readonly unquantized: string[] = [];
  readonly #options: WeightLoaderOptions;
  readonly #uploader: Uploader;
  #bytesRead = 0;

  constructor(options: WeightLoaderOptions) {
    this.#options = options;
    this.#uploader = new Uploader(options.device);
  }

  has(name: string): boolean {
    return this.#options.checkpoint.has(name);
  }

  quantizedAs(use: MatrixUse, columns: number): QuantizedDtype | null {
    return quantizedDtype(this.#options.quantization ?? null, use, columns);
  }

  /** [sum of rows, columns]: the parts below each other. Throws `CheckpointError`; the caller owns the tensor. */
  async matrix(parts: readonly Part[], columns: number, use: MatrixUse = "product"): Promise<Tensor> {
    const { checkpoint, quantization, dtype: wanted } = this.#options;
    if (columns % 8 !== 0) {
      throw new CheckpointError(`Cannot load ${parts[0].name}: expected columns in eights, got ${columns}`);
    }
    const stored = parts.map(({ name, rows }) => checkpoint.tensor(name, [rows, columns]));
    const quantized = this.quantizedAs(use, columns);
    if (quantized && quantization) {
      const rows = parts.reduce((sum, part) => sum + part.rows, 0);
      const names = parts.map(({ name }) => name);
      return this.#quantized(stored, { names, rows, columns, dtype: quantized, group: quantization.group });
    }
    if (quantization && use !== "table") this.unquantized.push(parts[0].name);
    return this.#join(parts, stored, this.#dtypeOf(stored[0], wanted), [columns]);
  }

  /** f32 [sum of sizes] of small tensors: norm weights, biases. */
  async vector(parts: readonly Part[]): Promise<Tensor> {
    const stored = parts.map(({ name, rows }) => this.#options.checkpoint.tensor(name, [rows]));
    return this.#join(parts, stored, "f32", []);
  }

  #dtypeOf({ dtype }: StoredTensor, wanted: WeightDtype): Dtype {
    if (wanted !== "auto") return wanted;
    return dtype === "BF16" && this.#options.bf16AsF16 ? "f16" : storedAs[dtype];
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
    const { checkpoint } = this.#options;
    const scale = bytesPerElement[target.dtype] / DTYPE_BYTES[stored.dtype];
    for await (const { offset, bytes } of checkpoint.chunks(stored, chunkBytes)) {
      const data = storedAs[stored.dtype] === target.dtype ? bytes : convert(bytes, stored, target.dtype);
      await this.#uploader.write(target, data, targetOffset + offset * scale);
      this.#advance(bytes.byteLength);
    }
  }

  /** Out of the cache, or rounded now and put there. */
  async #quantized(stored: readonly StoredTensor[], matrix: QuantizedMatrix): Promise<Tensor> {
    const { device, cache } = this.#options;
    const { names, rows, columns, dtype, group } = matrix;
    const target = createQuantized(device, { name: names[0], dtype, shape: [rows, columns], group });
    const take: TakeBytes = (region, offset, bytes) =>
      this.#uploader.write(region === "values" ? target : target.scales, bytes, offset);
    if (await cache?.load(matrix, take)) stored.forEach(({ byteLength }) => this.#advance(byteLength));
    else await this.#quantize(stored, matrix, take);
    return target;
  }

  /** All scales are kept until the end: a small part of the matrix, and rows of them may end within a word. */
  async #quantize(stored: readonly StoredTensor[], matrix: QuantizedMatrix, take: TakeBytes): Promise<void> {
    const { rows, columns, dtype, group } = matrix;
    const writer = await this.#options.cache?.create(matrix);
    const scales = new Float16Array((rows * columns) / group);
    let done = 0;
    try {
      for (const tensor of stored) {
        for await (const { bytes } of this.#options.checkpoint.chunks(tensor, chunkBytes)) {
          const weights = toF32(bytes, tensor.dtype);
          const rounded = quantizeChecked(weights, tensor.name, { dtype, group });
          await take("values", done * bytesPerElement[dtype], rounded.values);
          await writer?.write(rounded.values);
          scales.set(rounded.scales, done / group);
          done += weights.length;
          this.#advance(bytes.byteLength);
        }
      }
      const scaleBytes = new Uint8Array(scales.buffer);
      await take("scales", 0, scaleBytes);
      await writer?.write(scaleBytes);
      await writer?.finish();
    } finally {
      await writer?.abandon();
    }
  }

  /** A tensor may be read twice, as a table and as a head. */
  #advance(bytes: number): void {
    const { checkpoint, onProgress } = this.#options;
    this.#bytesRead = Math.min(this.#bytesRead + bytes, checkpoint.totalBytes);
    onProgress?.(this.#bytesRead, checkpoint.totalBytes);
  }
}

function quantizeChecked(
  weights: Float32Array,
  name: string,
  { dtype, group }: Pick<QuantizedMatrix, "dtype" | "group">,
): QuantizedRows {
  try {
    return quantize(weights, dtype, group);
  } catch (error) {
    if (error instanceof RangeError) throw new CheckpointError(`Cannot quantise ${name}: ${error.message}`);
    throw error;
  }
}

function convert(bytes: Uint8Array, { name, dtype }: StoredTensor, to: Dtype): ArrayBufferView {
  const values = toF32(bytes, dtype);
  if (to === "bf16") return f32ToBf16(values);
  if (to !== "f16") return values;
  const tooLarge = values.find((value) => Math.abs(value) >= F16_LIMIT);
  if (tooLarge === undefined) return f32ToF16(values);
  throw new CheckpointError(
    `Cannot load ${name} as f16: expected numbers below ${F16_LIMIT}, got ${tooLarge}. Use --dtype bf16 or f32`,
  );
}

/** From here on a number rounds to an infinite f16. */
const F16_LIMIT = 65520;
