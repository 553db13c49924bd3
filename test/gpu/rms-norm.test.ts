import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmsNorm } from "../../src/gpu/kernels/rms-norm.ts";
import { assertClose, normals, output, runTwice, testGpu, traitVariants, upload } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
// A sum of n rounded squares in f32, folded pairwise or by four: a few units in the last place (6e-8) are enough.
const tolerance = { relativeRms: 1e-6, worst: 1e-5 };

function reference(
  x: Float64Array,
  channels: number,
  eps: number,
  factor: (c: number) => number,
): Float64Array {
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += channels) {
    const row = x.subarray(start, start + channels);
    const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / channels + eps);
    row.forEach((value, c) => (y[start + c] = value * scale * factor(c)));
  }
  return y;
}

describe("rms-norm", () => {
  for (const traits of traitVariants(gpu)) {
    for (const [tokens, channels] of [
      [1, 256],
      [3, 96],
      [7, 1536],
      [5, 65],
      [9, 2],
    ]) {
      test(`${traits.isCpu ? "cpu" : "gpu"}: ${tokens} x ${channels}`, async () => {
        const values = Float64Array.from(normals(channels, tokens * channels), Math.fround);
        const w = Float64Array.from(normals(1, channels), Math.fround);
        const x = upload(gpu, "x", [tokens, channels], values);
        const weight = upload(gpu, "weight", [channels], w);
        const cases = [
          { options: {}, factor: () => 1 },
          { options: { weight }, factor: (c: number) => w[c] },
          { options: { weight, weightPlusOne: true }, factor: (c: number) => 1 + w[c] },
        ];
        for (const { options, factor } of cases) {
          const y = output(gpu, "y", [tokens, channels]);
          const result = await runTwice(gpu, [rmsNorm(traits, { x, y, eps: 1e-6, ...options })], { y });
          assertClose(result.y, reference(values, channels, 1e-6, factor), tolerance);
        }
      });
    }

    test(`${traits.isCpu ? "cpu" : "gpu"}: adds to what is there`, async () => {
      const [tokens, channels] = [3, 40];
      const values = Float64Array.from(normals(7, tokens * channels), Math.fround);
      const before = Float64Array.from(normals(8, tokens * channels), Math.fround);
      const x = upload(gpu, "x", [tokens, channels], values);
      const y = output(gpu, "y", [tokens, channels], before);
      const result = await runTwice(gpu, [rmsNorm(traits, { x, y, eps: 1e-6, accumulate: true })], { y });
      const normed = reference(values, channels, 1e-6, () => 1);
      assertClose(
        result.y,
        normed.map((value, i) => value + before[i]),
        tolerance,
      );
    });

    test(`${traits.isCpu ? "cpu" : "gpu"}: heads of a slice`, async () => {
      const [tokens, row, count, channels] = [3, 100, 4, 16];
      const values = Float64Array.from(normals(5, tokens * row), Math.fround);
      const x = upload(gpu, "x", [tokens, row], values);
      const y = output(gpu, "y", [tokens, count * channels]);
      const heads = { count, channels, xOffset: 20, yOffset: 0 };
      const result = await runTwice(gpu, [rmsNorm(traits, { x, y, eps: 1e-6, heads })], { y });
      const slice = new Float64Array(tokens * count * channels);
      for (let t = 0; t < tokens; t++) slice.set(values.subarray(t * row + 20, t * row + 84), t * 64);
      assertClose(
        result.y,
        reference(slice, channels, 1e-6, () => 1),
        tolerance,
      );
    });
  }

  test("names the tensor that does not fit", () => {
    const x = upload(gpu, "states", [2, 8], new Float32Array(16));
    const y = upload(gpu, "y", [3, 8], new Float32Array(24));
    expect(() => rmsNorm(gpu.traits, { x, y, eps: 1e-6 })).toThrow(
      "Cannot run rms-norm: expected y to have tokens = 2 as in x, got 3",
    );
    const weight = upload(gpu, "w", [4], new Float32Array(4));
    expect(() => rmsNorm(gpu.traits, { x, y: { ...y, shape: [2, 8] }, weight, eps: 1e-6 })).toThrow(
      "expected weight [8], got [4] (w)",
    );
  });
});
