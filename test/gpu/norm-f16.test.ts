import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { addNormF16, normF16 } from "../../src/gpu/kernels/norm-f16.ts";
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
const streamTolerance = { relativeRms: 2e-7, worst: 2e-6 };
const eps = 1e-6;

function normed(x: Float64Array, channels: number, factor: (c: number) => number): Float64Array {
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += channels) {
    const row = x.subarray(start, start + channels);
    const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / channels + eps);
    row.forEach((value, c) => (y[start + c] = value * scale * factor(c)));
  }
  return y;
}

const shapes = [
  [1, 256],
  [7, 1536],
  [3, 100],
  [5, 4],
] as const;

for (const traits of traitVariants(gpu).slice(0, 2)) {
  const kind = traits.isCpu ? "cpu" : "gpu";
  describe(`norm-f16, ${kind}`, () => {
    for (const [tokens, channels] of shapes) {
      test(`${tokens} x ${channels}`, async () => {
        const values = rounded(normals(channels, tokens * channels), "f32");
        const w = rounded(normals(1, channels, 0.1), "f32");
        const x = upload(gpu, "x", [tokens, channels], values);
        const weight = upload(gpu, "weight", [channels], w);
        const cases = [
          { options: {}, factor: () => 1 },
          { options: { weight }, factor: (c: number) => w[c] },
          { options: { weight, weightPlusOne: true }, factor: (c: number) => 1 + w[c] },
        ];
        for (const { options, factor } of cases) {
          const y = output(gpu, "y", [tokens, channels], undefined, "f16");
          const result = await runTwice(gpu, [normF16(traits, { x, y, eps, ...options })], { y });
          assertClose(result.y, normed(values, channels, factor), tolerance);
        }
      });

      test(`${tokens} x ${channels}, behind a product in three shares`, async () => {
        const count = tokens * channels;
        const before = rounded(normals(channels, count), "f32");
        const shares = rounded(normals(2, 3 * count), "f32");
        const stream = before.map(
          (value, i) => value + shares[i] + shares[count + i] + shares[2 * count + i],
        );
        const x = output(gpu, "x", [tokens, channels], before);
        const y = output(gpu, "y", [tokens, channels], undefined, "f16");
        const partials = upload(gpu, "partials", [3 * tokens, channels], shares);
        const result = await runTwice(gpu, [addNormF16(traits, { x, y, partials, eps })], { x, y });
        assertClose(result.x, stream, streamTolerance);
        assertClose(
          result.y,
          normed(stream, channels, () => 1),
          tolerance,
        );
      });
    }

    test("what f16 cannot hold is clamped, and NaN stays", async () => {
      const values = [1e9, -1e9, NaN, 0, 1, 2, 3, 4];
      const x = upload(gpu, "x", [2, 4], values);
      const weight = upload(gpu, "weight", [4], [1e6, 1e6, 1e6, 1e6]);
      const y = output(gpu, "y", [2, 4], undefined, "f16");
      const { y: written } = await runTwice(gpu, [normF16(traits, { x, y, weight, eps })], { y });
      expect([...written]).toEqual([NaN, NaN, NaN, NaN, 65504, 65504, 65504, 65504]);
    });
  });
}

test("norm-f16 refuses what does not fit", () => {
  const x = upload(gpu, "states", [2, 6], new Float32Array(12));
  const y = upload(gpu, "y", [2, 6], new Float32Array(12));
  expect(() => normF16(gpu.traits, { x, y, eps })).toThrow(
    "Cannot run norm-f16: expected channels to be a multiple of 4, got 6",
  );
  const [four, out] = [
    { ...x, shape: [3, 4] },
    { ...y, shape: [3, 4] },
  ];
  expect(() => normF16(gpu.traits, { x: four, y: out, eps })).toThrow("expected y to be f16, got f32 (y)");
  const partials = upload(gpu, "partials", [4, 4], new Float32Array(16));
  const f16 = { ...out, dtype: "f16" as const };
  expect(() => addNormF16(gpu.traits, { x: four, y: f16, partials, eps })).toThrow(
    "Cannot run add-norm-f16: expected the rows of partials to be a multiple of 3, got 4",
  );
});
