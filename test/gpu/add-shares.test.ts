import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { addShares } from "../../src/gpu/kernels/add-shares.ts";
import { normals, output, runTwice, testGpu, traitVariants, upload } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

describe("add-shares", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    test.each([
      [1, 4, 2],
      [3, 1540, 4],
      [9, 36, 1],
    ])(`${traits.isCpu ? "cpu" : "gpu"}: %i x %i, %i shares`, async (tokens, channels, shares) => {
      const count = tokens * channels;
      const before = Float32Array.from(normals(1, count));
      const values = Float32Array.from(normals(2, shares * count));
      const x = output(gpu, "x", [tokens, channels], before);
      const partials = upload(gpu, "partials", [shares * tokens, channels], values);
      const result = await runTwice(gpu, [addShares(traits, { x, partials })], { x });
      // IEEE additions in order: exact to the bit.
      const expected = before.map((value, i) => {
        let sum = value;
        for (let share = 0; share < shares; share++) sum = Math.fround(sum + values[share * count + i]);
        return sum;
      });
      expect(result.x).toEqual(expected);
    });
  }

  test("refuses rows that are no shares", () => {
    const x = upload(gpu, "x", [3, 4], new Float32Array(12));
    const partials = upload(gpu, "partials", [4, 4], new Float32Array(16));
    expect(() => addShares(gpu.traits, { x, partials })).toThrow(
      "Cannot run add-shares: expected the rows of partials to be a multiple of 3, got 4",
    );
  });
});
