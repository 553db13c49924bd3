/** Products and attention of many tokens on matrix units. */
import type { Gpu, GpuTraits } from "../src/gpu/gpu.ts";
import { gemm } from "../src/gpu/kernels/gemm.ts";
import { createTensor } from "../src/gpu/tensor.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { randomTensor } from "./random-tensor.ts";

/** Memory to go round in: more than the last cache of a large GPU (50 MB). */
const rotationBytes = 256 * 2 ** 20;

interface GemmShape {
  tokens: number;
  inputs: number;
  outputs: number;
}

function gemmCase(shape: GemmShape): KernelCase {
  const { tokens, inputs, outputs } = shape;
  const name = `gemm ${tokens} tokens ${outputs}x${inputs} f16`;
  return { name, on: "gpu", needs: hasMatrixUnits, build: (gpu) => buildGemm(gpu, shape) };
}

export function hasMatrixUnits({ hasSubgroupMatrix }: GpuTraits): boolean {
  return hasSubgroupMatrix;
}

function buildGemm(gpu: Gpu, { tokens, inputs, outputs }: GemmShape): BuiltCase {
  const x = randomTensor(gpu, { name: "x", shape: [tokens, inputs], dtype: "f16", seed: 1 });
  const shape = [tokens, outputs];
  const output = createTensor(gpu.device, { name: "y", dtype: "f32", shape, readable: true });
  const copies = Math.ceil(rotationBytes / (2 * outputs * inputs));
  const weights = Array.from({ length: copies }, () =>
    randomTensor(gpu, { name: "weight", shape: [outputs, inputs], dtype: "f16", seed: 2 }),
  );
  return {
    dispatches: weights.map((weight) => gemm(gpu.traits, { x: x.tensor, weight: weight.tensor, y: output })),
    output,
    expected: (index) => {
      const [t, n] = [Math.floor(index / outputs), index % outputs];
      let sum = 0;
      for (let k = 0; k < inputs; k++) sum += x.at(t * inputs + k) * weights[0].at(n * inputs + k);
      return sum;
    },
    tolerance: 2e-4,
  };
}

/** [tokens, outputs, inputs] */
const gemmShapes = [
  [4096, 4096, 4096],
  [1024, 6144, 1536],
  [1024, 1536, 4096],
  ...[16, 64].flatMap((tokens) => [
    [tokens, 6144, 1536],
    [tokens, 8192, 1536],
    [tokens, 1536, 4096],
    [tokens, 1536, 1536],
  ]),
];

export const matrixCases: readonly KernelCase[] = gemmShapes.map(([tokens, outputs, inputs]) =>
  gemmCase({ tokens, outputs, inputs }),
);
