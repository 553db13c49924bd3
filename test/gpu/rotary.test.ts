import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { rotaryTable } from "../../src/engine/layers/rotary.ts";
import { rotary, type RotaryOptions } from "../../src/gpu/kernels/rotary.ts";
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
// Two products and a sum in f32, on a table that is given.
const tolerance = { relativeRms: 2e-7, worst: 2e-6 };

interface Case {
  tokens: number;
  row: number;
  heads: RotaryOptions["heads"];
  rotaryDim: number;
}

const cases: Record<string, Case> = {
  "one token": { tokens: 1, row: 64, heads: { offset: 0, count: 1, channels: 64 }, rotaryDim: 64 },
  "a slice of a row": { tokens: 5, row: 211, heads: { offset: 33, count: 3, channels: 32 }, rotaryDim: 32 },
  "part of a head": { tokens: 7, row: 160, heads: { offset: 0, count: 2, channels: 80 }, rotaryDim: 20 },
  "one pair": { tokens: 3, row: 9, heads: { offset: 1, count: 4, channels: 2 }, rotaryDim: 2 },
  "more pairs than lanes": {
    tokens: 2,
    row: 1536,
    heads: { offset: 0, count: 12, channels: 128 },
    rotaryDim: 128,
  },
};

function reference(
  x: Float64Array,
  table: Float32Array,
  positions: readonly number[],
  one: Case,
): Float64Array {
  const y = x.slice();
  const half = one.rotaryDim / 2;
  positions.forEach((position, token) => {
    for (let head = 0; head < one.heads.count; head++) {
      const start = token * one.row + one.heads.offset + head * one.heads.channels;
      for (let i = 0; i < half; i++) {
        const cosine = table[position * one.rotaryDim + i];
        const sine = table[position * one.rotaryDim + half + i];
        y[start + i] = x[start + i] * cosine - x[start + half + i] * sine;
        y[start + half + i] = x[start + half + i] * cosine + x[start + i] * sine;
      }
    }
  });
  return y;
}

describe("rotary", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    for (const [name, one] of Object.entries(cases)) {
      test(`${traits.isCpu ? "cpu" : "gpu"}: ${name}`, async () => {
        const { tokens, row, heads, rotaryDim } = one;
        const values = rounded(normals(row, tokens * row), "f32");
        const table = rotaryTable({ type: "default", theta: 10_000, rotaryDim }, 50);
        const positions = Array.from({ length: tokens }, (_, t) => (49 + 31 * t) % 50);
        const meta = positions.flatMap((position) => [position, 9999, 9999, 9999]);
        const x = output(gpu, "x", [tokens, row], values);
        const cosSin = upload(gpu, "cos_sin", [50, rotaryDim], table);
        const tokensMeta = upload(gpu, "tokens_meta", [tokens, 4], meta, "u32");
        const result = await runTwice(gpu, [rotary(traits, { x, cosSin, tokensMeta, heads })], { x });
        assertClose(result.x, reference(values, table, positions, one), tolerance);
      });
    }
  }

  test("refuses heads outside the row, and a table wider than a head", () => {
    const x = upload(gpu, "x", [1, 16], new Float32Array(16));
    const cosSin = upload(gpu, "cos_sin", [4, 8], new Float32Array(32));
    const tokensMeta = upload(gpu, "tokens_meta", [1, 4], new Float32Array(4), "u32");
    const run = (heads: RotaryOptions["heads"]) => rotary(gpu.traits, { x, cosSin, tokensMeta, heads });
    expect(() => run({ offset: 1, count: 2, channels: 8 })).toThrow(
      "Cannot run rotary: expected the end of the heads to be at most 16, got 17",
    );
    expect(() => run({ offset: 0, count: 2, channels: 4 })).toThrow(
      "expected rotary_dim to be at most 4, got 8",
    );
  });
});
