import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { kvWrite } from "../../src/gpu/kernels/kv-write.ts";
import type { Dtype } from "../../src/gpu/tensor.ts";
import { normals, output, rounded, runTwice, testGpu, traitVariants, upload } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

interface Case {
  dtype: Dtype;
  blockSize: number;
  channels: number;
  slots: number[];
}

const cases: Case[] = [
  { dtype: "f32", blockSize: 4, channels: 64, slots: [5, 0, 23, 6] },
  { dtype: "f16", blockSize: 4, channels: 24, slots: [1, 2, 3] },
  { dtype: "bf16", blockSize: 16, channels: 40, slots: [17, 47, 0, 30, 31] },
  { dtype: "f16", blockSize: 16, channels: 512, slots: [33] },
];

/** [blocks, 2, blockSize, channels] with NaN wherever nothing is to be written. */
function reference({ blockSize, channels, slots }: Case, k: Float64Array, v: Float64Array): Float64Array {
  const kv = new Float64Array(blocks * 2 * blockSize * channels).fill(NaN);
  slots.forEach((slot, token) => {
    if (slot >= blocks * blockSize) return;
    [k, v].forEach((values, part) => {
      const row = (Math.floor(slot / blockSize) * 2 + part) * blockSize + (slot % blockSize);
      kv.set(values.subarray(token * channels, (token + 1) * channels), row * channels);
    });
  });
  return kv;
}

const blocks = 6;

function metaOf(slots: number[]) {
  return upload(
    gpu,
    "tokens_meta",
    [slots.length, 4],
    slots.flatMap((slot, t) => [t, slot, 0, 0]),
    "u32",
  );
}

/** Columns [offset, offset + channels) of a [tokens, row] array. */
function slice(values: Float64Array, row: number, offset: number, channels: number): Float64Array {
  const tokens = values.length / row;
  const parts = Array.from({ length: tokens }, (_, t) => [
    ...values.subarray(t * row + offset, t * row + offset + channels),
  ]);
  return Float64Array.from(parts.flat());
}

/** Equal values, a NaN of any payload being equal to a NaN. */
function expectSame(actual: Float32Array, expected: ArrayLike<number>): void {
  expect(actual.length).toBe(expected.length);
  const at = actual.findIndex((value, i) => !Object.is(value, expected[i]));
  if (at >= 0) throw new Error(`element ${at} is ${actual[at]}, expected ${expected[at]}`);
}

/** Scales are a 127th of a head's largest value; integers are the nearest, but for ties. */
function checkInt8(
  { kv, scales }: Record<"kv" | "scales", Float32Array>,
  exact: Float64Array,
  headDim: number,
) {
  scales.forEach((scale, head) => {
    const [first, end] = [head * headDim, (head + 1) * headDim];
    const wanted = exact.subarray(first, end);
    if (Number.isNaN(wanted[0])) {
      expect([scale, ...new Set(kv.subarray(first, end))]).toEqual([NaN, -128]);
      return;
    }
    const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(Math.abs(scale - largest / 127)).toBeLessThanOrEqual((largest / 127) * 2 ** -21);
    wanted.forEach((value, i) => {
      expect(Math.abs(kv[first + i] * scale - value)).toBeLessThanOrEqual(0.5 * scale * (1 + 2 ** -13));
    });
  });
}

describe("kv-write", () => {
  for (const traits of traitVariants(gpu)) {
    const kind = traits.isCpu ? "cpu" : "gpu";
    for (const one of cases) {
      const { dtype, blockSize, channels, slots } = one;
      test(`${kind}: ${slots.length} x ${channels} as ${dtype} in blocks of ${blockSize}`, async () => {
        const [row, kOffset, vOffset] = [2 * channels + 12, 4, channels + 8];
        const values = normals(3, slots.length * row);
        const x = upload(gpu, "projected", [slots.length, row], values);
        const shape = [blocks, 2, blockSize, channels];
        const kv = output(
          gpu,
          "kv",
          shape,
          new Float32Array(blocks * 2 * blockSize * channels).fill(NaN),
          dtype,
        );
        const dispatch = kvWrite(traits, { k: x, kOffset, v: x, vOffset, tokensMeta: metaOf(slots), kv });
        const result = await runTwice(gpu, [dispatch], { kv });
        const stored = rounded(Float64Array.from(values, Math.fround), dtype);
        const expected = reference(
          one,
          slice(stored, row, kOffset, channels),
          slice(stored, row, vOffset, channels),
        );
        expectSame(result.kv, expected);
      });
    }

    test(`${kind}: a slot outside the cache is skipped`, async () => {
      const x = upload(gpu, "x", [2, 8], normals(1, 16));
      const kv = output(gpu, "kv", [1, 2, 4, 8]);
      const meta = metaOf([4, 0xffffffff]);
      const result = await runTwice(gpu, [kvWrite(traits, { k: x, v: x, tokensMeta: meta, kv })], { kv });
      expect(result.kv.every(Number.isNaN)).toBe(true);
    });

    for (const [heads, headDim, from] of [
      [4, 24, "f32"],
      [1, 128, "f16"],
      [3, 8, "f32"],
    ] as const) {
      test(`${kind}: ${heads} heads of ${headDim} in ${from} as i8 with their scales`, async () => {
        const channels = heads * headDim;
        const [row, kOffset, vOffset] = [2 * channels + 12, 4, channels + 8];
        const slots = [5, 0, 23, 0xffffffff, 6];
        const values = rounded(normals(4, slots.length * row), from);
        values.fill(0, kOffset, kOffset + headDim); // a head of zeros
        const x = upload(gpu, "projected", [slots.length, row], values, from);
        const counts = { values: blocks * 2 * 4 * channels, scales: blocks * 2 * 4 * heads };
        const kv = output(gpu, "kv", [blocks, 2, 4, channels], new Int8Array(counts.values).fill(-128), "i8");
        const scales = output(gpu, "scales", [blocks, 2, 4, heads]);
        const cache = { ...kv, scales };
        const dispatch = kvWrite(traits, {
          k: x,
          kOffset,
          v: x,
          vOffset,
          tokensMeta: metaOf(slots),
          kv: cache,
        });
        const found = await runTwice(gpu, [dispatch], { kv, scales });
        const one: Case = { dtype: "f32", blockSize: 4, channels, slots };
        const exact = reference(
          one,
          slice(values, row, kOffset, channels),
          slice(values, row, vOffset, channels),
        );
        checkInt8(found, exact, headDim);
      });
    }

    test(`${kind}: what is not finite in a head is not finite in its scale`, async () => {
      const x = upload(
        gpu,
        "x",
        [1, 32],
        Float32Array.from({ length: 32 }, (_, i) => [NaN, 1, Infinity, 2][i >> 3]),
      );
      const kv = output(gpu, "kv", [1, 2, 1, 32], new Int8Array(64), "i8");
      const scales = output(gpu, "scales", [1, 2, 1, 4], new Float32Array(8));
      const dispatch = kvWrite(traits, { k: x, v: x, tokensMeta: metaOf([0]), kv: { ...kv, scales } });
      const found = await runTwice(gpu, [dispatch], { scales });
      expect([...found.scales].map(Number.isFinite)).toEqual([
        false,
        true,
        false,
        true,
        false,
        true,
        false,
        true,
      ]);
    });

    for (const dtype of ["f16", "bf16"] as const) {
      test(`${kind}: ${dtype} ties go to even, range and NaN are kept`, async () => {
        const tie = dtype === "f16" ? 2 ** -11 : 2 ** -8;
        const values = [1 + tie, 1 + 3 * tie, -1 - tie, 1 + tie * 1.01, 65504, -60000, 0, NaN];
        const x = upload(gpu, "x", [1, 8], values);
        const kv = output(gpu, "kv", [1, 2, 1, 8], undefined, "f32");
        const small = output(gpu, "kv", [1, 2, 1, 8], new Float32Array(16), dtype);
        const tokensMeta = metaOf([0]);
        const dispatches = [kv, small].map((to) => kvWrite(traits, { k: x, v: x, tokensMeta, kv: to }));
        const result = await runTwice(gpu, dispatches, { kv, small });
        expectSame(result.kv.slice(8), values.map(Math.fround));
        expectSame(result.small.slice(0, 8), rounded(values, dtype));
      });
    }

    test(`${kind}: f16 holds at the end of its range what is beyond`, async () => {
      const x = upload(gpu, "x", [1, 8], [1e6, -1e6, 65519, 65536, 0, 0, 0, 0]);
      const kv = output(gpu, "kv", [1, 2, 1, 8], new Float32Array(16), "f16");
      const result = await runTwice(gpu, [kvWrite(traits, { k: x, v: x, tokensMeta: metaOf([0]), kv })], {
        kv,
      });
      expect([...result.kv.slice(0, 4)]).toEqual([65504, -65504, 65504, 65504]);
    });
  }

  test("refuses an i8 cache whose scales are of another shape", () => {
    const x = upload(gpu, "x", [1, 16], new Float32Array(16));
    const kv = upload(gpu, "kv", [1, 2, 4, 16], new Int8Array(128), "i8");
    const scales = upload(gpu, "scales", [1, 2, 3, 2], new Float32Array(12));
    expect(() => kvWrite(gpu.traits, { k: x, v: x, tokensMeta: metaOf([0]), kv: { ...kv, scales } })).toThrow(
      "expected kv_scales to have block_size = 4 as in kv, got 3 (scales [1, 2, 3, 2])",
    );
  });

  test("names what does not fit", () => {
    const x = upload(gpu, "x", [1, 16], new Float32Array(16));
    const kv = upload(gpu, "kv", [1, 2, 4, 8], new Float32Array(64));
    const tokensMeta = metaOf([0]);
    expect(() => kvWrite(gpu.traits, { k: x, v: x, vOffset: 12, tokensMeta, kv })).toThrow(
      "Cannot run kv-write: expected 8 columns from 12 on in v, got rows of 16",
    );
    expect(() => kvWrite(gpu.traits, { k: x, kOffset: 2, v: x, tokensMeta, kv })).toThrow(
      "expected kOffset to be a multiple of 4, got 2",
    );
  });
});
