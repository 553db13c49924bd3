import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Activation, gatedActivation } from "../../src/gpu/kernels/gated-activation.ts";
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
// The exponent's own rounding and WGSL's 3 + 2 |x| units in the last place (6e-8) for exp, |x| under 12 where it counts.
const tolerance = { relativeRms: 1e-6, worst: 1e-5 };

const activations: Record<Activation, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  "gelu-tanh": (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

describe("gated-activation", () => {
  for (const traits of traitVariants(gpu).slice(0, 2)) {
    for (const activation of ["silu", "gelu-tanh"] as const) {
      const label = `${traits.isCpu ? "cpu" : "gpu"}, ${activation}`;

      test.each([
        [1, 4],
        [3, 1100],
        [9, 36],
      ])(`${label}: %i x %i`, async (tokens, channels) => {
        const values = rounded(normals(channels, tokens * 2 * channels, 2), "f32");
        const x = upload(gpu, "x", [tokens, 2 * channels], values);
        const y = output(gpu, "y", [tokens, channels]);
        const result = await runTwice(gpu, [gatedActivation(traits, { x, y, activation })], { y });
        const expected = Float64Array.from({ length: tokens * channels }, (_, i) => {
          const gate = Math.floor(i / channels) * 2 * channels + (i % channels);
          return activations[activation](values[gate]) * values[gate + channels];
        });
        assertClose(result.y, expected, tolerance);
      });

      test(`${label}: large inputs give x or 0`, async () => {
        const gates = [1e4, -1e4, 300, -300, 95, -95, 20, -20, 9, -9, 1e-3, -1e-3].map(Math.fround);
        const x = upload(gpu, "x", [1, 24], [...gates, ...gates.map(() => 1)]);
        const y = output(gpu, "y", [1, 12]);
        const result = await runTwice(gpu, [gatedActivation(traits, { x, y, activation })], { y });
        gates.forEach((gate, i) => {
          // A value to 1e-5 of itself, or of 1e-6 where it vanishes.
          assertClose([result.y[i], 1e-6], [activations[activation](gate), 1e-6], {
            relativeRms: 1,
            worst: 1e-5,
          });
        });
      });
    }
  }

  test("refuses an input that is not twice as wide", () => {
    const x = upload(gpu, "gate_up", [1, 12], new Float32Array(12));
    const y = upload(gpu, "y", [1, 8], new Float32Array(8));
    expect(() => gatedActivation(gpu.traits, { x, y, activation: "silu" })).toThrow(
      "Cannot run gated-activation: expected x to have 16 columns, got 12 (gate_up)",
    );
  });
});
