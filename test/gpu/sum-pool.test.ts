import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { sumPool } from "../../src/gpu/kernels/sum-pool.ts";
import { assertClose, normals, output, runTwice, testGpu, traitVariants, upload } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

/** Sums in float64 of the rows of each range. */
function expectedSums(x: Float32Array, channels: number, ranges: readonly (readonly number[])[]): number[] {
  return ranges.flatMap(([start, count]) =>
    Array.from({ length: channels }, (_, channel) => {
      let sum = 0;
      for (let token = start; token < start + count; token++) sum += x[token * channels + channel];
      return sum;
    }),
  );
}

describe("sum-pool", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    const label = traits.isCpu ? "cpu" : "gpu";

    test.each([
      [1, 4, [[0, 1]]],
      [3, 1540, [[1, 2]]],
      [
        100,
        36,
        [
          [0, 31],
          [31, 1],
          [32, 33],
          [65, 35],
        ],
      ],
      [
        70,
        100,
        [
          [40, 30],
          [0, 40],
          [5, 0],
          [0, 70],
        ],
      ],
    ])(`${label}: %i x %i, rows %j`, async (tokens, channels, ranges) => {
      const values = Float32Array.from(normals(1, tokens * channels));
      const x = upload(gpu, "x", [tokens, channels], values);
      const pools = upload(gpu, "ranges", [ranges.length, 2], ranges.flat(), "u32");
      const y = output(gpu, "y", [ranges.length, channels]);
      const result = await runTwice(gpu, [sumPool(traits, { ranges: pools, x, y })], { y });
      // 31 + 2 additions at most behind a value, each of which may round by 6e-8 of a sum that is of its size.
      assertClose(result.y, expectedSums(values, channels, ranges), { relativeRms: 1e-6, worst: 4e-6 });
    });

    test(`${label}: a long pool is summed in runs`, async () => {
      const tokens = 4096;
      const x = upload(gpu, "x", [tokens, 4], new Float32Array(tokens * 4).fill(0.1));
      const ranges = upload(gpu, "ranges", [1, 2], [0, tokens], "u32");
      const y = output(gpu, "y", [1, 4]);
      const result = await runTwice(gpu, [sumPool(traits, { ranges, x, y })], { y });
      // 31 + 127 additions, each of which may round by 6e-8; one after the other they are out by 5e-5.
      const expected = Array.from({ length: 4 }, () => tokens * Math.fround(0.1));
      assertClose(result.y, expected, { relativeRms: 1e-5, worst: 1e-5 });
    });
  }

  test("refuses channels that are not aligned, and pools of another count", () => {
    const x = upload(gpu, "x", [2, 6], new Float32Array(12));
    const ranges = upload(gpu, "ranges", [1, 2], [0, 2], "u32");
    expect(() => sumPool(gpu.traits, { ranges, x, y: output(gpu, "y", [1, 6]) })).toThrow(
      "channels to be a multiple of 4",
    );
    expect(() => sumPool(gpu.traits, { ranges, x, y: output(gpu, "y", [2, 6]) })).toThrow("pools = 1");
  });
});
