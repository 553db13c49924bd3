import { expect, setDefaultTimeout, test } from "bun:test";
import { f16ToF32 } from "../../../src/engine/weights/dtype.ts";
import { DummyWeights } from "../../../src/engine/weights/dummy.ts";
import type { Quantization } from "../../../src/engine/weights/quantization.ts";
import { elementCount, type Tensor } from "../../../src/gpu/tensor.ts";
import { testGpu } from "../../support/gpu.ts";
import { readable, readBytes } from "../../support/read-tensor.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

const formats: readonly (Quantization | null)[] = [
  null,
  { format: "int8", group: 32 },
  { format: "int4", group: 32 },
  { format: "int4", group: 64 },
];

/** What a matrix of f16, i8 or i4 holds. */
async function numbers(tensor: Tensor): Promise<Float32Array> {
  const bytes = new Uint8Array(await readBytes(gpu, tensor));
  if (!tensor.scales) return f16ToF32(new Uint16Array(bytes.buffer)).slice(0, elementCount(tensor.shape));
  const scales = f16ToF32(new Uint16Array(await readBytes(gpu, tensor.scales)));
  const integers =
    tensor.dtype === "i8"
      ? [...new Int8Array(bytes.buffer)]
      : [...bytes].flatMap((byte) => [(byte & 15) - 8, (byte >> 4) - 8]);
  const group = tensor.shape[1] / tensor.scales.shape[1];
  const count = elementCount(tensor.shape);
  return Float32Array.from({ length: count }, (_, i) => integers[i] * scales[Math.floor(i / group)]);
}

async function matrixOf(quantization: Quantization | null, rows: number, columns: number): Promise<Tensor> {
  return new DummyWeights(readable(gpu.device), "auto", quantization).matrix([{ name: "w", rows }], columns);
}

test.each(formats)(
  "%j: a product keeps the size of what goes in, rows differ, each run has the same",
  async (format) => {
    for (const columns of [128, 1536]) {
      const found = await numbers(await matrixOf(format, 96, columns));
      expect(found.length).toBe(96 * columns);
      const variance = found.reduce((sum, value) => sum + value ** 2, 0) / found.length;
      // Of n numbers the mean of squares is off by 0.9 / sqrt(n), of 12,288 by 0.8 %; thrice that, and 1 % for 4 bits.
      expect(Math.abs(variance * columns - 1)).toBeLessThan(0.035);
      expect(found.slice(0, columns)).not.toEqual(found.slice(columns, 2 * columns));
      expect(await numbers(await matrixOf(format, 96, columns))).toEqual(found);
    }
  },
);

test("integers are those of the numbers they stand for, in every length of row", async () => {
  // A step is the largest's seventh or eighth, and the largest is at most sqrt(3 / columns).
  for (const columns of [128, 1536]) {
    const [whole, rounded] = [
      await numbers(await matrixOf(null, 64, columns)),
      await numbers(await matrixOf({ format: "int4", group: 32 }, 64, columns)),
    ];
    const worst = whole.reduce((most, value, i) => Math.max(most, Math.abs(value - rounded[i])), 0);
    expect(worst * Math.sqrt(columns)).toBeLessThan(Math.sqrt(3) / 6);
    expect(worst).toBeGreaterThan(0);
  }
});

test("a matrix larger than the block of numbers is filled to its end, scales too", async () => {
  const found = await numbers(await matrixOf({ format: "int4", group: 32 }, 1100, 1024));
  const end = found.slice(-64);
  expect(end.some((value) => value !== 0)).toBe(true);
  expect(end.every(Number.isFinite)).toBe(true);
});
