/** Large random tensors, quickly: one block of seeded normal numbers, repeated; its elements can be looked up again. */
import type { Gpu } from "../src/gpu/gpu.ts";
import {
  bytesPerElement,
  createTensor,
  type Dtype,
  elementCount,
  type Tensor,
  writeTensor,
} from "../src/gpu/tensor.ts";

/** A multiple of 8 with no other factor in common with usual row lengths, so that rows differ. */
const blockLength = 8 * 131_071;

export interface RandomTensor {
  tensor: Tensor;
  /** The element at a flat index, as stored. */
  at(index: number): number;
}

export interface RandomTensorOptions {
  name: string;
  shape: number[];
  dtype?: Dtype;
  seed: number;
  readable?: boolean;
}

export function randomTensor(
  gpu: Gpu,
  { name, shape, dtype = "f32", seed, readable }: RandomTensorOptions,
): RandomTensor {
  const tensor = createTensor(gpu.device, { name, dtype, shape, readable });
  const { values, stored } = block(Math.min(blockLength, elementCount(shape)), dtype, seed);
  const size = elementCount(shape) * bytesPerElement[dtype];
  for (let offset = 0; offset < size; offset += stored.byteLength) {
    const bytes = Math.min(stored.byteLength, size - offset);
    writeTensor(gpu.device, tensor, new Uint8Array(stored.buffer, 0, bytes), offset);
  }
  return { tensor, at: (index) => values[index % values.length] };
}

interface Block {
  values: Float32Array;
  stored: ArrayBufferView<ArrayBuffer>;
}

const blocks = new Map<string, Block>();

function block(length: number, dtype: Dtype, seed: number): Block {
  const key = `${length} ${dtype} ${seed}`;
  const found = blocks.get(key);
  if (found) return found;
  const made = encode(normals(length, seed), dtype);
  blocks.set(key, made);
  return made;
}

function encode(values: Float32Array<ArrayBuffer>, dtype: Dtype): Block {
  switch (dtype) {
    case "f32":
      return { values, stored: values };
    case "f16": {
      const stored = Float16Array.from(values);
      return { values: Float32Array.from(stored), stored };
    }
    case "bf16": {
      // Cut off rather than rounded: random numbers either way.
      const bits = new Uint32Array(values.buffer).map((word) => word & 0xffff0000);
      return { values: new Float32Array(bits.buffer), stored: Uint16Array.from(bits, (word) => word >>> 16) };
    }
    case "i8": {
      const stored = Int8Array.from(values, (value) => 40 * value);
      return { values: Float32Array.from(stored), stored };
    }
    case "i4": {
      const whole = values.map((value) => Math.max(-8, Math.min(Math.round(3 * value), 7)));
      const byte = (_: unknown, i: number) => whole[2 * i] + 8 + 16 * (whole[2 * i + 1] + 8);
      return { values: whole, stored: Uint8Array.from({ length: whole.length / 2 }, byte) };
    }
    case "u32":
      throw new Error("Cannot make a random tensor: expected a floating point type, got u32");
  }
}

/** Sums of uniform numbers, near enough to normal and cheap. */
function normals(length: number, seed: number): Float32Array<ArrayBuffer> {
  let state = seed >>> 0;
  const uniform = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32 - 0.5;
  return Float32Array.from({ length }, () => 2 * (uniform() + uniform() + uniform()));
}
