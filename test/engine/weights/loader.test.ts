import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { CheckpointError } from "../../../src/engine/errors.ts";
import { f32ToBf16, f32ToF16 } from "../../../src/engine/weights/dtype.ts";
import { WeightLoader, type WeightDtype } from "../../../src/engine/weights/loader.ts";
import type { Quantization } from "../../../src/engine/weights/quantization.ts";
import { quantize } from "../../../src/engine/weights/quantize.ts";
import { Checkpoint } from "../../../src/engine/weights/safetensors.ts";
import type { Tensor } from "../../../src/gpu/tensor.ts";
import { type TestTensor, withTempDir, writeSafetensors, writeShards } from "../../support/checkpoint.ts";
import { normals, testGpu } from "../../support/gpu.ts";
import { readable, readBytes } from "../../support/read-tensor.ts";
import { rejection } from "../../support/rejection.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

type Stored = "F32" | "F16" | "BF16";

function stored(name: string, shape: number[], values: ArrayLike<number>, dtype: Stored): TestTensor {
  const numbers = Float32Array.from(values);
  const encoders = { F32: (data: Float32Array) => data, F16: f32ToF16, BF16: f32ToBf16 };
  const data = encoders[dtype](numbers);
  return { name, dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

interface Progress {
  done: number;
  all: number;
}

async function withLoader<T>(
  tensors: readonly TestTensor[],
  {
    dtype = "auto",
    shards = 1,
    quantization = null,
    bf16AsF16 = false,
  }: {
    dtype?: WeightDtype;
    shards?: number;
    quantization?: Quantization | null;
    bf16AsF16?: boolean;
  },
  body: (loader: WeightLoader, progress: Progress[]) => Promise<T>,
): Promise<T> {
  return withTempDir(async (dir) => {
    if (shards === 1) writeSafetensors(`${dir}/model.safetensors`, tensors);
    else writeShards(dir, tensors, shards);
    const checkpoint = await Checkpoint.open(dir);
    const progress: Progress[] = [];
    const onProgress = (done: number, all: number) => progress.push({ done, all });
    const formats = { dtype, quantization, bf16AsF16 };
    const loader = new WeightLoader({ device: readable(gpu.device), checkpoint, ...formats, onProgress });
    return body(loader, progress).finally(() => checkpoint.close());
  });
}

/** The tensor's values without the padding behind them. */
async function words16(tensor: Tensor): Promise<number[]> {
  return [...new Uint16Array(await readBytes(gpu, tensor))];
}

async function floats(tensor: Tensor): Promise<number[]> {
  return [...new Float32Array(await readBytes(gpu, tensor))];
}

// Values that bfloat16 and float16 round, up and down and to even.
const values = normals(3, 16 * 8);

describe("matrix", () => {
  test("stays as it is stored with `auto`", async () => {
    for (const dtype of ["F32", "F16", "BF16"] as const) {
      const tensor = stored("w", [16, 8], values, dtype);
      await withLoader([tensor], {}, async (loader) => {
        const loaded = await loader.matrix([{ name: "w", rows: 16 }], 8);
        expect(loaded).toMatchObject({ dtype: dtype.toLowerCase(), shape: [16, 8] });
        expect([...new Uint8Array(await readBytes(gpu, loaded))]).toEqual([...tensor.bytes]);
      });
    }
  });

  test.each<[Stored, WeightDtype]>([
    ["F32", "bf16"],
    ["F32", "f16"],
    ["BF16", "f32"],
    ["BF16", "f16"],
    ["F16", "f32"],
  ])("%s becomes %s", async (from, to) => {
    const tensor = stored("w", [16, 8], values, from);
    const exact = {
      F32: Float32Array.from(values),
      F16: Float32Array.from(new Float16Array(values)),
      BF16: Float32Array.from(
        f32ToBf16(Float32Array.from(values)),
        (bits) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0],
      ),
    }[from];
    await withLoader([tensor], { dtype: to }, async (loader) => {
      const loaded = await loader.matrix([{ name: "w", rows: 16 }], 8);
      expect(loaded.dtype).toBe(to as Tensor["dtype"]);
      if (to === "f32") expect(await floats(loaded)).toEqual([...exact]);
      else {
        const rounded = to === "bf16" ? f32ToBf16(exact) : f32ToF16(exact);
        expect(await words16(loaded)).toEqual([...rounded]);
      }
    });
  });

  test("parts lie below each other in the order asked for, also out of shards and of other formats", async () => {
    const parts = [
      stored("up", [3, 8], values.slice(0, 24), "F32"),
      stored("gate", [5, 8], values.slice(24, 64), "BF16"),
    ];
    for (const shards of [1, 2]) {
      await withLoader(parts, { dtype: "bf16", shards }, async (loader) => {
        const joined = await loader.matrix(
          [
            { name: "gate", rows: 5 },
            { name: "up", rows: 3 },
          ],
          8,
        );
        expect(joined.shape).toEqual([8, 8]);
        const expected = f32ToBf16(Float32Array.from([...values.slice(24, 64), ...values.slice(0, 24)]));
        expect(await words16(joined)).toEqual([...expected]);
      });
    }
  });

  test("more than a chunk arrives whole, every chunk at its place", async () => {
    const [rowCount, columns] = [2100, 1024]; // 8.6 MB in float32: two chunks, the second one a short one
    const numbers = Float32Array.from({ length: rowCount * columns }, (_, i) => i % 65_519);
    for (const dtype of ["auto", "f16"] as const) {
      const tensor = stored("w", [rowCount, columns], numbers, "F32");
      await withLoader([tensor], { dtype }, async (loader, progress) => {
        const loaded = await loader.matrix([{ name: "w", rows: rowCount }], columns);
        const bytes = await readBytes(gpu, loaded);
        const found = dtype === "auto" ? new Float32Array(bytes) : new Float16Array(bytes);
        const wanted = dtype === "auto" ? numbers : new Float16Array(numbers);
        expect(found.length).toBe(numbers.length);
        expect(found.findIndex((value, i) => value !== wanted[i])).toBe(-1);
        expect(progress.length).toBe(2);
      });
    }
  });

  test("bfloat16 is kept by auto, or held as f16 where matrix units need it", async () => {
    const numbers = Float32Array.from([1, -0.5, 3.140625, 65_280, -65_280, 2 ** -14, 0, 0.0078125]);
    const tensor = stored("w", [1, 8], numbers, "BF16");
    for (const bf16AsF16 of [false, true]) {
      await withLoader([tensor], { bf16AsF16 }, async (loader) => {
        const loaded = await loader.matrix([{ name: "w", rows: 1 }], 8);
        expect(loaded.dtype).toBe(bf16AsF16 ? "f16" : "bf16");
        if (bf16AsF16) expect([...new Float16Array(await readBytes(gpu, loaded))]).toEqual([...numbers]);
      });
    }
  });

  test("a number that f16 cannot hold is refused by name", async () => {
    const tensor = stored("model.w", [1, 8], Float32Array.of(0, 0, 0, 65_536, 0, 0, 0, 0), "BF16");
    await withLoader([tensor], { dtype: "f16" }, async (loader) => {
      const error = await rejection(loader.matrix([{ name: "model.w", rows: 1 }], 8));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toContain("Cannot load model.w as f16: expected numbers below 65520, got 65536");
    });
  });

  test("columns that do not come in eights are refused", async () => {
    const tensor = stored("model.w", [4, 12], values.slice(0, 48), "BF16");
    await withLoader([tensor], {}, async (loader) => {
      const error = await rejection(loader.matrix([{ name: "model.w", rows: 4 }], 12));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toBe("Cannot load model.w: expected columns in eights, got 12");
    });
  });

  test("a missing tensor and one of another shape are refused by name", async () => {
    const tensor = stored("w", [4, 8], values.slice(0, 32), "BF16");
    await withLoader([tensor], {}, async (loader) => {
      expect([loader.has("w"), loader.has("v")]).toEqual([true, false]);
      const missing = await rejection(loader.matrix([{ name: "v", rows: 4 }], 8));
      expect(missing).toBeInstanceOf(CheckpointError);
      expect(missing.message).toContain('tensor "v"');
      const wrong = await rejection(loader.matrix([{ name: "w", rows: 8 }], 8));
      expect(wrong).toBeInstanceOf(CheckpointError);
      for (const part of ["model.safetensors", '"w"', "[8,8]", "[4,8]"]) {
        expect(wrong.message.replaceAll(", ", ",")).toContain(part);
      }
    });
  });
});

describe("quantised", () => {
  const parts = [
    { name: "a", rows: 3 },
    { name: "b", rows: 2 },
  ];
  const [a, b] = [normals(4, 3 * 96), normals(5, 2 * 96)];
  const tensors = [stored("a", [3, 96], a, "BF16"), stored("b", [2, 96], b, "F32")];
  const exact = Float32Array.from([
    ...Array.from(
      f32ToBf16(Float32Array.from(a)),
      (bits) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0],
    ),
    ...b,
  ]);

  test.each([
    ["int8", "i8"],
    ["int4", "i4"],
  ] as const)(
    "%s: parts of other formats become one matrix with the scales of its rows in order",
    (format, dtype) =>
      withLoader(tensors, { shards: 2, quantization: { format, group: 32 } }, async (loader, progress) => {
        const loaded = await loader.matrix(parts, 96);
        const wanted = quantize(exact, dtype, 32);
        expect(loaded).toMatchObject({ dtype, shape: [5, 96], scales: { dtype: "f16", shape: [5, 3] } });
        expect([...new Uint8Array(await readBytes(gpu, loaded))]).toEqual([...wanted.values]);
        // 15 scales: the last one shares its word with nothing.
        expect([...new Float16Array(await readBytes(gpu, loaded.scales!))]).toEqual([...wanted.scales]);
        expect(progress.at(-1)).toEqual({ done: 3 * 96 * 2 + 2 * 96 * 4, all: 3 * 96 * 2 + 2 * 96 * 4 });
      }),
  );

  test("tables stay as they are, and rows that are no whole groups; the head has 8 bits", async () => {
    const odd = stored("odd", [2, 40], values.slice(0, 80), "BF16");
    await withLoader([tensors[0], odd], { quantization: { format: "int4", group: 32 } }, async (loader) => {
      const dtypeAs = async (use: "table" | "head" | "product") =>
        (await loader.matrix([{ name: "a", rows: 3 }], 96, use)).dtype;
      expect([await dtypeAs("table"), await dtypeAs("head"), await dtypeAs("product")]).toEqual([
        "bf16",
        "i8",
        "i4",
      ]);
      expect(loader.unquantized).toEqual([]);
      expect(await loader.matrix([{ name: "odd", rows: 2 }], 40)).toMatchObject({
        dtype: "bf16",
        shape: [2, 40],
      });
      expect(loader.unquantized).toEqual(["odd"]);
      expect(loader.quantizedAs("product", 40)).toBeNull();
    });
  });

  test("a weight that is not a number is refused by its tensor's name", async () => {
    const broken = stored("model.w", [1, 32], new Float32Array(32).fill(NaN), "BF16");
    await withLoader([broken], { quantization: { format: "int8", group: 32 } }, async (loader) => {
      const error = await rejection(loader.matrix([{ name: "model.w", rows: 1 }], 32));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toContain("Cannot quantise model.w: expected at most 393024, got NaN");
    });
  });
});

describe("vector", () => {
  test("is float32 whatever the weights are, with an odd number of elements too", async () => {
    const biases = [stored("a", [3], [1, 2, 3], "BF16"), stored("b", [4], [4, 5, 6, 7], "F16")];
    await withLoader(biases, { dtype: "bf16" }, async (loader) => {
      const joined = await loader.vector([
        { name: "a", rows: 3 },
        { name: "b", rows: 4 },
      ]);
      expect(joined).toMatchObject({ dtype: "f32", shape: [7] });
      expect(await floats(joined)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    });
  });
});

test("progress goes up with every chunk and ends at the checkpoint's bytes", async () => {
  const tensors = [
    stored("a", [16, 8], values, "F32"),
    stored("b", [16, 8], values, "BF16"),
    stored("c", [5], values.slice(0, 5), "F16"),
  ];
  await withLoader(tensors, { dtype: "f16", shards: 2 }, async (loader, progress) => {
    await loader.matrix([{ name: "a", rows: 16 }], 8);
    await loader.matrix([{ name: "b", rows: 16 }], 8);
    await loader.vector([{ name: "c", rows: 5 }]);
    const all = 16 * 8 * 4 + 16 * 8 * 2 + 5 * 2;
    expect(progress).toEqual([512, 768, 778].map((done) => ({ done, all })));
  });
});
