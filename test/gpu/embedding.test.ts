import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { embedding, ID_FROM_SAMPLED } from "../../src/gpu/kernels/embedding.ts";
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
// One rounding of a product in f32.
const tolerance = { relativeRms: 1e-7, worst: 1e-6 };

function gather(table: Float64Array, ids: readonly number[], channels: number, scale: number): Float64Array {
  return Float64Array.from({ length: ids.length * channels }, (_, i) => {
    return scale * table[ids[Math.floor(i / channels)] * channels + (i % channels)];
  });
}

describe("embedding", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    const label = traits.isCpu ? "cpu" : "gpu";

    for (const dtype of ["f32", "bf16", "f16"] as const) {
      test.each([
        [1, 8, 3],
        [5, 1048, 17],
        [33, 40, 101],
      ])(`${label}, ${dtype}: %i tokens x %i channels of %i`, async (tokens, channels, vocab) => {
        const values = normals(vocab, vocab * channels);
        const table = upload(gpu, "table", [vocab, channels], values, dtype);
        const wanted = Array.from({ length: tokens }, (_, t) => (7 * t + vocab - 1) % vocab);
        const ids = upload(gpu, "ids", [tokens], wanted, "u32");
        const y = output(gpu, "y", [tokens, channels]);
        const result = await runTwice(gpu, [embedding(traits, { ids, table, y, scale: 6.25 })], { y });
        assertClose(result.y, gather(rounded(values, dtype), wanted, channels, 6.25), tolerance);
      });
    }

    test(`${label}: ids from the samples of the step before; none reads outside`, async () => {
      const [vocab, channels] = [5, 16];
      const values = rounded(normals(3, vocab * channels), "f32");
      const table = upload(gpu, "table", [vocab, channels], values);
      const sampled = upload(gpu, "sampled", [3], [4, 2, 0x7fffffff], "u32");
      const fed = [
        1,
        ID_FROM_SAMPLED,
        ID_FROM_SAMPLED + 1,
        3,
        ID_FROM_SAMPLED + 2,
        5,
        0xffffffff,
        0x7fffffff,
      ];
      const ids = upload(gpu, "ids", [fed.length], fed, "u32");
      const y = output(gpu, "y", [fed.length, channels]);
      const result = await runTwice(gpu, [embedding(traits, { ids, table, y, sampled })], { y });
      expect([...result.y]).toEqual([...gather(values, [1, 4, 2, 3, 4, 4, 4, 4], channels, 1)]);
    });

    test(`${label}: more tokens than workgroups in a dimension`, async () => {
      const tokens = 65_537;
      const values = rounded(normals(4, 16), "f32");
      const table = upload(gpu, "table", [2, 8], values);
      const wanted = Array.from({ length: tokens }, (_, t) => (t === 65_535 ? 1 : 0));
      const ids = upload(gpu, "ids", [tokens], wanted, "u32");
      const y = output(gpu, "y", [tokens, 8]);
      const result = await runTwice(gpu, [embedding(traits, { ids, table, y })], { y });
      assertClose(result.y, gather(values, wanted, 8, 1), tolerance);
    });
  }

  test("refuses rows that are no multiple of 8", () => {
    const table = upload(gpu, "table", [2, 12], new Float32Array(24));
    const ids = upload(gpu, "ids", [1], [0], "u32");
    const y = upload(gpu, "y", [1, 12], new Float32Array(12));
    expect(() => embedding(gpu.traits, { ids, table, y })).toThrow(
      "Cannot run embedding: expected channels to be a multiple of 8, got 12",
    );
  });
});
