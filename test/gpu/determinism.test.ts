/** With `deterministic`, a token's result has the same bits however many others are in the batch. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { linear } from "../../src/gpu/kernels/linear.ts";
import { type Dtype, type Tensor } from "../../src/gpu/tensor.ts";
import { normals, output, runTwice, testGpu, traitVariants, upload } from "../support/gpu.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);
const tokensMax = 20;
const [inputs, outputs] = [264, 37];
const states = normals(1, tokensMax * inputs);
const bias = upload(gpu, "bias", [outputs], normals(8, outputs));

/** The results of `count` tokens from `first` on, as one batch. */
async function results(traits: typeof gpu.traits, weight: Tensor, first: number, count: number) {
  const x = upload(gpu, "x", [count, inputs], states.slice(first * inputs, (first + count) * inputs));
  const y = output(gpu, "y", [count, outputs], new Float32Array(count * outputs).fill(0.3));
  return (await runTwice(gpu, [linear(traits, { x, weight, bias, y, accumulate: true })], { y })).y;
}

for (const variant of traitVariants(gpu).slice(0, 2)) {
  const traits = { ...variant, deterministic: true };
  describe(`linear, deterministic, ${traits.isCpu ? "cpu" : "gpu"}`, () => {
    for (const dtype of ["f32", "bf16", "f16"] as Dtype[]) {
      test(`${dtype}: batches of 1 to ${tokensMax} tokens agree bit for bit`, async () => {
        const weight = upload(gpu, "w", [outputs, inputs], normals(7, outputs * inputs, 0.1), dtype);
        const all = await results(traits, weight, 0, tokensMax);
        const differing: number[] = [];
        for (let count = 1; count < tokensMax; count++) {
          const first = count % 2 === 0 ? 0 : tokensMax - count;
          const batch = await results(traits, weight, first, count);
          const same = all.subarray(first * outputs, (first + count) * outputs);
          if (batch.some((value, index) => value !== same[index])) differing.push(count);
        }
        expect(differing).toEqual([]);
      });
    }
  });
}
