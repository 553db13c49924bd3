/** A tensor: a shape over a range of a device buffer. Plain data; copying the object shares the memory. */

/**
 * Formats of less than 32 bits share a word, the element of lowest index in the lowest bits. i8 is signed; i4 stores
 * its value + 8. Both are quantised: what a number is worth is for the tensor's `scales` to say.
 */
export type Dtype = "f32" | "u32" | "f16" | "bf16" | "i8" | "i4";

export const bytesPerElement: Record<Dtype, number> = { f32: 4, u32: 4, f16: 2, bf16: 2, i8: 1, i4: 0.5 };

export interface DeviceBuffer {
  readonly id: number;
  readonly gpu: GPUBuffer;
}

export interface Tensor {
  readonly name: string;
  readonly dtype: Dtype;
  /** Outermost dimension first. May be smaller than what the buffer holds. */
  readonly shape: readonly number[];
  readonly buffer: DeviceBuffer;
  /** The range bound for kernels, in bytes; it stays the same for all `rows` of a tensor, and so do bind groups. */
  readonly offset: number;
  readonly size: number;
  /** Of a quantised tensor: the factors of its groups of elements, which lie side by side in the last dimension. */
  readonly scales?: Tensor;
}

let nextBufferId = 0;

export interface TensorOptions {
  name: string;
  dtype: Dtype;
  shape: readonly number[];
  /** Allows `readback`, and copies out of the tensor. */
  readable?: boolean;
}

/** Allocates a tensor, zeroed by WebGPU. Throws RangeError with sizes when it is over what the device can bind. */
export function createTensor(device: GPUDevice, { name, dtype, shape, readable }: TensorOptions): Tensor {
  const size = align(elementCount(shape) * bytesPerElement[dtype], 16);
  const most = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
  if (size > most) {
    throw new RangeError(
      `Cannot allocate tensor ${name} [${shape.join(", ")}] ${dtype}: at most ${most} bytes can be bound on this device, got ${size}`,
    );
  }
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | (readable ? GPUBufferUsage.COPY_SRC : 0);
  const gpu = device.createBuffer({ label: name, size: Math.max(size, 16), usage });
  return { name, dtype, shape, buffer: { id: nextBufferId++, gpu }, offset: 0, size: Math.max(size, 16) };
}

/** The first `count` rows of a tensor: same memory, same binding. */
export function rows(tensor: Tensor, count: number): Tensor {
  if (count > tensor.shape[0]) {
    throw new RangeError(`Cannot take ${count} rows of tensor ${tensor.name}: it has ${tensor.shape[0]}`);
  }
  return { ...tensor, shape: [count, ...tensor.shape.slice(1)] };
}

/** The rows from `start` on, to be copied: their offset need not suit the device's storage alignment. */
export function rowsFrom(tensor: Tensor, start: number): Tensor {
  const [count, ...inner] = tensor.shape;
  const skipped = elementCount([start, ...inner]) * bytesPerElement[tensor.dtype];
  return {
    ...tensor,
    shape: [count - start, ...inner],
    offset: tensor.offset + skipped,
    size: tensor.size - skipped,
  };
}

/** A tensor over bytes `offset...` of another one's buffer; the offset must suit the device's storage alignment. */
export function section(tensor: Tensor, options: TensorOptions & { offset: number }): Tensor {
  const { name, dtype, shape, offset } = options;
  const size = align(elementCount(shape) * bytesPerElement[dtype], 16);
  if (offset + size > tensor.size) {
    throw new RangeError(
      `Cannot cut ${name} out of ${tensor.name}: ${offset + size} bytes of ${tensor.size}`,
    );
  }
  return { name, dtype, shape, buffer: tensor.buffer, offset, size };
}

/** A matrix of integers and its scales, of `group` inputs each, in one buffer, so that a kernel may bind both at once. */
export function createQuantized(
  device: GPUDevice,
  { name, dtype, shape: [rows, columns], group }: QuantizedOptions,
): Tensor & { scales: Tensor } {
  const scaleShape = [rows, columns / group];
  const offset = align(rows * columns * bytesPerElement[dtype], 256); // what suits any device
  const words = align(offset + elementCount(scaleShape) * bytesPerElement.f16, 16) / 4;
  const whole = createTensor(device, { name, dtype: "u32", shape: [words] });
  const scales = section(whole, { name: `${name}.scales`, dtype: "f16", shape: scaleShape, offset });
  return { ...section(whole, { name, dtype, shape: [rows, columns], offset: 0 }), scales };
}

export interface QuantizedOptions {
  name: string;
  dtype: "i8" | "i4";
  shape: readonly [rows: number, columns: number];
  group: number;
}

/** The range of `first` and of `second`, which lies behind it in the same buffer; undefined if it does not. */
export function joined(first: Tensor, second: Tensor): Tensor | undefined {
  const end = second.offset + second.size;
  const isBehind = first.buffer.id === second.buffer.id && second.offset >= first.offset + first.size;
  return isBehind ? { ...first, size: end - first.offset } : undefined;
}

/** Writes data at an offset of the tensor, both in bytes. The data is copied before this returns. */
export function writeTensor(device: GPUDevice, tensor: Tensor, data: ArrayBufferView, offset = 0): void {
  if (offset + data.byteLength > tensor.size) {
    throw new RangeError(
      `Cannot write ${data.byteLength} bytes at ${offset} of tensor ${tensor.name}: it has ${tensor.size} bytes`,
    );
  }
  if (data.byteLength === 0) return; // Deno 2.9.5 panics on it
  const bytes = data as ArrayBufferView<ArrayBuffer>;
  device.queue.writeBuffer(
    tensor.buffer.gpu,
    tensor.offset + offset,
    bytes.buffer,
    bytes.byteOffset,
    bytes.byteLength,
  );
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

export function align(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

/** The same memory as a vector: for a binding that a variant does not read. */
export function flatten(tensor: Tensor): Tensor {
  return { ...tensor, shape: [elementCount(tensor.shape)] };
}
