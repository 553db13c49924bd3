import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { rotaryTable } from "../../src/engine/layers/rotary.ts";
import { rotaryKv, type RotaryKvOptions } from "../../src/gpu/kernels/rotary-kv.ts";
import { type Dtype, elementCount } from "../../src/gpu/tensor.ts";
import {
  assertClose,
  normals,
  output,
  rounded,
  runTwice,
  testGpu,
  traitVariants,
  upload,
} from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
// f16 rounds by at most 2^-11 of a value, 2^-11 / sqrt(3) or less in the mean; of normal numbers, none is beyond 6.
const tolerance = { relativeRms: 2 ** -11 / Math.sqrt(3), worst: 6 * 2 ** -11 };

interface Case {
  heads: number;
  kvHeads: number;
  headDim: number;
  rotaryDim: number;
  dtype: Dtype;
  norm?: "w" | "1 + w";
}

const cases: Record<string, Case> = {
  "hrm-text": { heads: 12, kvHeads: 12, headDim: 128, rotaryDim: 128, dtype: "f32" },
  "grouped heads, norms": { heads: 6, kvHeads: 2, headDim: 64, rotaryDim: 64, dtype: "f16", norm: "w" },
  "heads of 96, half of them turned": { heads: 3, kvHeads: 1, headDim: 96, rotaryDim: 48, dtype: "f32" },
  "gemma's norms": { heads: 2, kvHeads: 1, headDim: 256, rotaryDim: 256, dtype: "f16", norm: "1 + w" },
  "one small head": { heads: 1, kvHeads: 1, headDim: 8, rotaryDim: 8, dtype: "f32", norm: "w" },
};

const positions = [3, 0, 49, 7, 8];
const slots = [17, 4, 99, 5, 6]; // the third token's is outside the cache
const [blocks, blockSize, gap, eps] = [5, 4, 4, 1e-5];

type Inputs = Record<"x" | "qWeight" | "kWeight", Float64Array> & { table: Float32Array };

/** One head of queries or keys. */
function turned(head: Float64Array, position: number, weight: Float64Array, one: Case, table: Float32Array) {
  const { headDim, rotaryDim, norm } = one;
  const mean = head.reduce((sum, value) => sum + value * value, 0) / headDim;
  const normed = head.map((value, c) =>
    norm ? (value / Math.sqrt(mean + eps)) * (norm === "w" ? weight[c] : 1 + weight[c]) : value,
  );
  const half = rotaryDim / 2;
  return normed.map((value, c) => {
    if (c >= rotaryDim) return value;
    const cosine = table[position * rotaryDim + (c % half)];
    const sine = table[position * rotaryDim + half + (c % half)];
    return c < half ? value * cosine - normed[c + half] * sine : value * cosine + normed[c - half] * sine;
  });
}

/** Queries [tokens, heads * headDim], and the cache with NaN where nothing was written. */
function reference(one: Case, { x, qWeight, kWeight, table }: Inputs, row: number, kOffset: number) {
  const { heads, kvHeads, headDim } = one;
  const [width, channels] = [heads * headDim, kvHeads * headDim];
  const q = new Float64Array(positions.length * width);
  const kv = new Float64Array(blocks * 2 * blockSize * channels).fill(NaN);
  positions.forEach((position, t) => {
    const head = (column: number) =>
      x.slice(t * row + gap + column * headDim, t * row + gap + (column + 1) * headDim);
    for (let h = 0; h < heads; h++)
      q.set(turned(head(h), position, qWeight, one, table), t * width + h * headDim);
    if (slots[t] >= blocks * blockSize) return;
    for (let h = 0; h < kvHeads; h++) {
      const place = Math.floor(slots[t] / blockSize) * 2 * blockSize + (slots[t] % blockSize);
      const key = x.slice(t * row + kOffset + h * headDim, t * row + kOffset + (h + 1) * headDim);
      kv.set(turned(key, position, kWeight, one, table), place * channels + h * headDim);
      const value = x.slice(
        t * row + kOffset + channels + h * headDim,
        t * row + kOffset + channels + (h + 1) * headDim,
      );
      kv.set(value, (place + blockSize) * channels + h * headDim);
    }
  });
  return { q, kv };
}

function setUp(one: Case): { options: RotaryKvOptions; expected: Record<"q" | "kv", Float64Array> } {
  const { heads, kvHeads, headDim, rotaryDim, dtype, norm } = one;
  const channels = kvHeads * headDim;
  const kOffset = gap + heads * headDim;
  const row = kOffset + 2 * channels + gap;
  const tokens = positions.length;
  const inputs: Inputs = {
    x: rounded(normals(row, tokens * row), dtype),
    qWeight: rounded(normals(1, headDim), "f32"),
    kWeight: rounded(normals(2, headDim), "f32"),
    table: rotaryTable({ type: "default", theta: 10_000, rotaryDim }, 50),
  };
  const meta = positions.flatMap((position, t) => [position, slots[t], 9999, 9999]);
  const options: RotaryKvOptions = {
    x: upload(gpu, "x", [tokens, row], inputs.x, dtype),
    qOffset: gap,
    kOffset,
    vOffset: kOffset + channels,
    heads,
    kvHeads,
    headDim,
    norm: norm && {
      queryWeight: upload(gpu, "q_weight", [headDim], inputs.qWeight),
      keyWeight: upload(gpu, "k_weight", [headDim], inputs.kWeight),
      plusOne: norm === "1 + w",
      eps,
    },
    cosSin: upload(gpu, "cos_sin", [50, rotaryDim], inputs.table),
    tokensMeta: upload(gpu, "tokens_meta", [tokens, 4], meta, "u32"),
    q: output(gpu, "q", [tokens, heads * headDim], undefined, "f16"),
    kv: output(gpu, "kv", [blocks, 2, blockSize, channels], undefined, "f16"),
  };
  return { options, expected: reference(one, inputs, row, kOffset) };
}

describe("rotary-kv", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    for (const [name, one] of Object.entries(cases)) {
      test(`${traits.isCpu ? "cpu" : "gpu"}: ${name}`, async () => {
        const { options, expected } = setUp(one);
        const { q, kv } = options;
        const written = await runTwice(gpu, [rotaryKv(traits, options)], { q, kv });
        // With norms, values are w times normal numbers: a largest product of two of them.
        const { relativeRms, worst } = tolerance;
        const allowed = { relativeRms, worst: one.norm ? 3 * worst : worst };
        assertClose(written.q, expected.q, allowed);
        const isStored = (_: number, i: number) => !Number.isNaN(expected.kv[i]);
        assertClose(written.kv.filter(isStored), expected.kv.filter(isStored), allowed);
        expect(written.kv.filter((value, i) => !isStored(value, i) && !Number.isNaN(value))).toHaveLength(0);
      });
    }
  }

  test("an i8 cache is not written; the keys are behind the queries", async () => {
    const one = cases["grouped heads, norms"];
    const { options, expected } = setUp(one);
    const [queries, keys] = [one.heads * one.headDim, one.kvHeads * one.headDim];
    const q = output(gpu, "q", [positions.length, queries + keys], undefined, "f16");
    const kv = output(gpu, "kv", [...options.kv.shape], new Int8Array(elementCount(options.kv.shape)), "i8");
    const written = await runTwice(gpu, [rotaryKv(gpu.traits, { ...options, q, kv })], { q, kv });
    expect(written.kv.every((value) => value === 0)).toBe(true);
    positions.forEach((_, t) => {
      const row = written.q.subarray(t * (queries + keys), (t + 1) * (queries + keys));
      const allowed = { ...tolerance, worst: 3 * tolerance.worst };
      assertClose(row.subarray(0, queries), expected.q.subarray(t * queries, (t + 1) * queries), allowed);
      if (slots[t] >= blocks * blockSize) return;
      const place = Math.floor(slots[t] / blockSize) * 2 * blockSize + (slots[t] % blockSize);
      assertClose(row.subarray(queries), expected.kv.subarray(place * keys, (place + 1) * keys), allowed);
    });
  });

  test("refuses what does not fit", () => {
    const { options } = setUp(cases["one small head"]);
    const refusals: [string, Partial<RotaryKvOptions>][] = [
      ["expected headDim to be a multiple of 8, got 12", { headDim: 12 }],
      ["expected qOffset to be a multiple of 4, got 2", { qOffset: 2 }],
      ["expected 8 columns from vOffset on within rows of 32, got 36", { vOffset: 28 }],
      ["expected q_channels = 16, got 8", { heads: 2 }],
      ["expected kv to be f16 or i8, got bf16", { kv: { ...options.kv, dtype: "bf16" } }],
    ];
    for (const [message, change] of refusals) {
      expect(() => rotaryKv(gpu.traits, { ...options, ...change })).toThrow(
        `Cannot run rotary-kv: ${message}`,
      );
    }
  });
});
