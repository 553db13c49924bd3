/**
 * Random weights of any geometry, for measuring a model that is not here (`--load-format dummy`, as in vLLM). Seeded:
 * the same on every run. One block of numbers is made and repeated.
 */
import {
  align,
  bytesPerElement,
  createQuantized,
  createTensor,
  type Dtype,
  elementCount,
  type Tensor,
  writeTensor,
} from "../../gpu/tensor.ts";
import { f32ToBf16, f32ToF16 } from "./dtype.ts";
import type { Part, WeightDtype, WeightSource } from "./loader.ts";
import { type MatrixUse, type Quantization, quantizedDtype } from "./quantization.ts";
import { quantize, type QuantizedDtype, type QuantizedRows } from "./quantize.ts";

/** A multiple of every group that shares no other factor with usual row lengths, so that rows differ. */
const blockLength = 64 * 16_381;

export class DummyWeights implements WeightSource {
  readonly #device: GPUDevice;
  readonly #dtype: Dtype;
  readonly #quantization: Quantization | null;
  readonly #block: Float32Array<ArrayBuffer>;
  /** The block as integers, which are the same whatever it is multiplied by: that is for the scales. */
  readonly #rounded = new Map<QuantizedDtype, QuantizedRows>();

  /** `auto` is f16. */
  constructor(device: GPUDevice, dtype: WeightDtype, quantization: Quantization | null = null) {
    this.#device = device;
    this.#dtype = dtype === "auto" ? "f16" : dtype;
    this.#quantization = quantization;
    this.#block = uniforms(blockLength);
  }

  /** Every name is there, so models take their fused tensors. */
  has(_name: string): boolean {
    return true;
  }

  quantizedAs(use: MatrixUse, columns: number): QuantizedDtype | null {
    return quantizedDtype(this.#quantization, use, columns);
  }

  /** Of variance 1 / columns: products keep the size of what goes in. */
  async matrix(parts: readonly Part[], columns: number, use: MatrixUse = "product"): Promise<Tensor> {
    const shape = [rowsOf(parts), columns];
    const [{ name }] = parts;
    const factor = Math.sqrt(12 / columns);
    const dtype = this.quantizedAs(use, columns);
    if (!dtype || !this.#quantization) {
      const tensor = createTensor(this.#device, { name, dtype: this.#dtype, shape });
      const block = this.#block.map((value) => value * factor);
      await this.#fill(tensor, encode(block, this.#dtype));
      return tensor;
    }
    const { group } = this.#quantization;
    const { values, scales } = this.#blockAs(dtype, group);
    const tensor = createQuantized(this.#device, { name, dtype, shape: [shape[0], columns], group });
    await this.#fill(tensor, values);
    await this.#fill(
      tensor.scales,
      scales.map((scale) => scale * factor),
    );
    return tensor;
  }

  /** Rounded once: a matrix takes a tenth of a second and more, a model has hundreds. */
  #blockAs(dtype: QuantizedDtype, group: number): QuantizedRows {
    const rounded = this.#rounded.get(dtype) ?? quantize(this.#block, dtype, group);
    this.#rounded.set(dtype, rounded);
    return rounded;
  }

  /** The block's numbers again and again. */
  async #fill(tensor: Tensor, block: ArrayBufferView<ArrayBuffer>): Promise<void> {
    const size = align(elementCount(tensor.shape) * bytesPerElement[tensor.dtype], 4);
    for (let offset = 0; offset < size; offset += block.byteLength) {
      const bytes = Math.min(block.byteLength, size - offset);
      writeTensor(this.#device, tensor, new Uint8Array(block.buffer, block.byteOffset, bytes), offset);
    }
    await this.#device.queue.onSubmittedWorkDone(); // bounds the copies that wait on the host
  }

  /** Around 1, as norm weights are. */
  async vector(parts: readonly Part[]): Promise<Tensor> {
    const size = rowsOf(parts);
    const tensor = createTensor(this.#device, { name: parts[0].name, dtype: "f32", shape: [size] });
    writeTensor(
      this.#device,
      tensor,
      Float32Array.from({ length: size }, (_, i) => 1 + this.#block[i % blockLength]),
    );
    return tensor;
  }
}

function rowsOf(parts: readonly Part[]): number {
  return parts.reduce((sum, { rows }) => sum + rows, 0);
}

/** From -0.5 to 0.5, of variance 1 / 12. */
function uniforms(length: number): Float32Array<ArrayBuffer> {
  let state = 1;
  const next = () => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) / 2 ** 32 - 0.5;
  return Float32Array.from({ length }, next);
}

function encode(values: Float32Array, dtype: Dtype): ArrayBufferView<ArrayBuffer> {
  if (dtype === "bf16") return f32ToBf16(values) as Uint16Array<ArrayBuffer>;
  return (dtype === "f16" ? f32ToF16(values) : values) as ArrayBufferView<ArrayBuffer>;
}
