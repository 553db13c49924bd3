/** Products with weights: decoding and prefill, rotating over more memory than a cache holds. */
import type { Gpu } from "../src/gpu/gpu.ts";
import { linear } from "../src/gpu/kernels/linear.ts";
import { createTensor, type Dtype } from "../src/gpu/tensor.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { randomTensor, type RandomTensor } from "./random-tensor.ts";

/** Memory to go round in: more than the last cache of a large GPU (50 MB), or than the own caches of a core. */
const rotationBytes = { cpu: 8 * 2 ** 20, gpu: 256 * 2 ** 20 };

interface LinearShape {
  tokens: number;
  inputs: number;
  outputs: number;
  dtype: Dtype;
}

function linearCase(on: KernelCase["on"], shape: LinearShape): KernelCase {
  const { tokens, inputs, outputs, dtype } = shape;
  const name = `linear ${tokens} token${tokens > 1 ? "s" : ""} ${outputs}x${inputs} ${dtype}`;
  return { name, on, build: (gpu) => buildLinear(gpu, shape) };
}

function buildLinear(gpu: Gpu, { tokens, inputs, outputs, dtype }: LinearShape): BuiltCase {
  const x = randomTensor(gpu, { name: "x", shape: [tokens, inputs], seed: 1 });
  const output = createTensor(gpu.device, {
    name: "y",
    dtype: "f32",
    shape: [tokens, outputs],
    readable: true,
  });
  const shape: [number, number] = [outputs, inputs];
  const first = randomWeight(gpu, shape, dtype);
  const copies = Math.ceil(rotationBytes[gpu.traits.isCpu ? "cpu" : "gpu"] / first.tensor.size);
  const weights = Array.from({ length: copies }, (_, index) =>
    index === 0 ? first.tensor : randomWeight(gpu, shape, dtype).tensor,
  );
  return {
    dispatches: weights.map((weight) => linear(gpu.traits, { x: x.tensor, weight, y: output })),
    output,
    expected: (index) => {
      const [t, n] = [Math.floor(index / outputs), index % outputs];
      let sum = 0;
      for (let k = 0; k < inputs; k++) sum += x.at(t * inputs + k) * first.at(n * inputs + k);
      return sum;
    },
    tolerance: 5e-5,
  };
}

/** Of i8 and i4 with scales for groups of 32 inputs. */
function randomWeight(gpu: Gpu, shape: [outputs: number, inputs: number], dtype: Dtype): RandomTensor {
  const weight = randomTensor(gpu, { name: "weight", shape, dtype, seed: 2 });
  if (dtype !== "i8" && dtype !== "i4") return weight;
  const scales = randomTensor(gpu, {
    name: "scales",
    shape: [shape[0], shape[1] / 32],
    dtype: "f16",
    seed: 3,
  });
  return {
    tensor: { ...weight.tensor, scales: scales.tensor },
    at: (index) => weight.at(index) * scales.at(Math.floor(index / 32)),
  };
}

/** [outputs, inputs] of the embedded model's products. */
const tinyShapes = [
  [1024, 256],
  [256, 256],
  [1536, 256],
  [256, 768],
  [8192, 256],
];

/** [tokens, outputs, inputs] of products with quantised weights. */
const quantizedShapes = [
  [1, 6144, 1536],
  [1, 4096, 4096],
  [1, 65536, 1536],
  [8, 6144, 1536],
  [1024, 6144, 1536],
];

/** [tokens, outputs, inputs]; the first token counts are those of decoding. */
const gpuShapes = [
  [1, 1536, 1536],
  [1, 6144, 1536],
  [1, 4096, 4096],
  [1, 65536, 1536],
  [1, 16384, 8192],
  [8, 6144, 1536],
  [32, 6144, 1536],
  [4096, 4096, 4096],
  [1024, 6144, 1536],
  [1024, 1536, 4096],
];

export const linearCases: readonly KernelCase[] = [
  ...[1, 8, 32].flatMap((tokens) =>
    tinyShapes.map(([outputs, inputs]) => linearCase("cpu", { tokens, inputs, outputs, dtype: "bf16" })),
  ),
  ...(["f32", "f16", "i8", "i4"] as const).flatMap((dtype) =>
    [1, 8, 32].map((tokens) => linearCase("cpu", { tokens, inputs: 256, outputs: 1536, dtype })),
  ),
  ...(["i8", "i4"] as const).flatMap((dtype) => [
    ...quantizedShapes.map(([tokens, outputs, inputs]) =>
      linearCase("gpu", { tokens, inputs, outputs, dtype }),
    ),
  ]),
  ...gpuShapes.map(([tokens, outputs, inputs]) =>
    linearCase("gpu", { tokens, inputs, outputs, dtype: "f16" }),
  ),
];
