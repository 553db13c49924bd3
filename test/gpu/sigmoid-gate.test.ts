import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { sigmoidGate } from "../../src/gpu/kernels/sigmoid-gate.ts";
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
// WGSL allows exp(-g) an error of 3 + 2 |g| units in the last place (6e-8), and a quotient 2.5 more; |g| is under 12 here.
const tolerance = { relativeRms: 1e-6, worst: 5e-6 };

describe("sigmoid-gate", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    const label = traits.isCpu ? "cpu" : "gpu";

    test.each([
      [1, 4, 4, 0],
      [3, 1540, 6160, 0],
      [7, 36, 100, 64],
    ])(`${label}: %i x %i, gate row %i from %i`, async (tokens, channels, gateRow, gateOffset) => {
      const values = rounded(normals(1, tokens * channels), "f32");
      const gates = rounded(normals(2, tokens * gateRow, 3), "f32");
      const y = output(gpu, "y", [tokens, channels], values);
      const gate = upload(gpu, "gate", [tokens, gateRow], gates);
      const result = await runTwice(gpu, [sigmoidGate(traits, { y, gate, gateOffset })], { y });
      const expected = values.map((value, i) => {
        const at = Math.floor(i / channels) * gateRow + gateOffset + (i % channels);
        return value / (1 + Math.exp(-gates[at]));
      });
      assertClose(result.y, expected, tolerance);
    });

    test(`${label}: gates far from 0 are 0 or 1`, async () => {
      const y = output(gpu, "y", [1, 8], new Float32Array(8).fill(3));
      const gate = upload(gpu, "gate", [1, 8], [1e4, -1e4, 3e38, -3e38, 100, -200, 0, -0]);
      const result = await runTwice(gpu, [sigmoidGate(traits, { y, gate, gateOffset: 0 })], { y });
      assertClose(result.y, [3, 0, 3, 0, 3, 0, 1.5, 1.5], tolerance);
    });
  }

  test("refuses a gate outside its row, and columns that are not aligned", () => {
    const y = upload(gpu, "y", [1, 8], new Float32Array(8));
    const gate = upload(gpu, "gate", [1, 12], new Float32Array(12));
    expect(() => sigmoidGate(gpu.traits, { y, gate, gateOffset: 8 })).toThrow(
      "Cannot run sigmoid-gate: expected a gate within 12 columns, got 8 + 8",
    );
    expect(() => sigmoidGate(gpu.traits, { y, gate, gateOffset: 2 })).toThrow(
      "gate_offset to be a multiple of 4",
    );
  });
});
