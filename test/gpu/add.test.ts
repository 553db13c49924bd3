import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { add } from "../../src/gpu/kernels/add.ts";
import { normals, output, runTwice, testGpu, traitVariants, upload } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

describe("add", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    const label = traits.isCpu ? "cpu" : "gpu";

    test.each([
      [1, 4, "rows"],
      [3, 1540, "rows"],
      [9, 36, "one row"],
      [1, 36, "one row"],
    ])(`${label}: %i x %i, b of %s`, async (tokens, channels, form) => {
      const values = Float32Array.from(normals(1, tokens * channels));
      const count = form === "rows" ? tokens * channels : channels;
      const others = Float32Array.from(normals(2, count));
      const a = upload(gpu, "a", [tokens, channels], values);
      const b = upload(gpu, "b", form === "rows" ? [tokens, channels] : [channels], others);
      const y = output(gpu, "y", [tokens, channels]);
      const result = await runTwice(gpu, [add(traits, { a, b, y })], { y });
      // One IEEE addition: exact to the bit.
      expect(result.y).toEqual(values.map((value, i) => value + others[i % count]));
    });
  }

  test("refuses another number of rows", () => {
    const a = upload(gpu, "a", [4, 4], new Float32Array(16));
    const b = upload(gpu, "b", [2, 4], new Float32Array(8));
    expect(() => add(gpu.traits, { a, b, y: { ...a, name: "y" } })).toThrow(
      "Cannot run add: expected b to have 1 or 4 rows, got 2 (b)",
    );
  });
});
