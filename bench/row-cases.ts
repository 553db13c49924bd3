/** Kernels that read and write each row once: bound by memory, or by their launch. */
import type { Gpu } from "../src/gpu/gpu.ts";
import { gatedActivation } from "../src/gpu/kernels/gated-activation.ts";
import { normF16 } from "../src/gpu/kernels/norm-f16.ts";
import { rmsNorm } from "../src/gpu/kernels/rms-norm.ts";
import { rotaryKv } from "../src/gpu/kernels/rotary-kv.ts";
import { createTensor, type Dtype, writeTensor } from "../src/gpu/tensor.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { randomTensor } from "./random-tensor.ts";

function normCase(on: KernelCase["on"], tokens: number, channels: number): KernelCase {
  return { name: `rms-norm ${tokens}x${channels}`, on, build: (gpu) => buildNorm(gpu, tokens, channels) };
}

function buildNorm(gpu: Gpu, tokens: number, channels: number): BuiltCase {
  const x = randomTensor(gpu, { name: "x", shape: [tokens, channels], seed: 1 });
  const output = createTensor(gpu.device, {
    name: "y",
    dtype: "f32",
    shape: [tokens, channels],
    readable: true,
  });
  return {
    dispatches: [rmsNorm(gpu.traits, { x: x.tensor, y: output, eps: 1e-6 })],
    output,
    expected: (index) => {
      const row = Math.floor(index / channels) * channels;
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += x.at(row + c) ** 2;
      return x.at(index) / Math.sqrt(sum / channels + 1e-6);
    },
    tolerance: 1e-5,
  };
}

function normF16Case(on: KernelCase["on"], tokens: number, channels: number): KernelCase {
  return { name: `norm-f16 ${tokens}x${channels}`, on, build: (gpu) => buildNormF16(gpu, tokens, channels) };
}

function buildNormF16(gpu: Gpu, tokens: number, channels: number): BuiltCase {
  const inF32 = buildNorm(gpu, tokens, channels);
  const { x } = inF32.dispatches[0].tensors;
  const shape = [tokens, channels];
  const output = createTensor(gpu.device, { name: "y", dtype: "f16", shape, readable: true });
  return {
    dispatches: [normF16(gpu.traits, { x, y: output, eps: 1e-6 })],
    output,
    expected: (index) => inF32.expected(index),
    tolerance: 4e-3,
  };
}

/** Queries, keys and values side by side in f16, as a projection on matrix units leaves them. */
function rotaryKvCase(on: KernelCase["on"], tokens: number, heads: number, headDim: number): KernelCase {
  const name = `rotary-kv ${tokens} tokens, ${heads}x${headDim}`;
  return { name, on, build: (gpu) => buildRotaryKv(gpu, { tokens, heads, headDim }) };
}

function buildRotaryKv(
  gpu: Gpu,
  { tokens, heads, headDim }: { tokens: number; heads: number; headDim: number },
): BuiltCase {
  const width = heads * headDim;
  const create = (name: string, shape: number[], dtype: Dtype = "f16") =>
    createTensor(gpu.device, { name, dtype, shape, readable: true });
  const x = randomTensor(gpu, { name: "x", shape: [tokens, 3 * width], dtype: "f16", seed: 1 });
  const cosSin = randomTensor(gpu, { name: "cos_sin", shape: [tokens, headDim], seed: 2 });
  const tokensMeta = create("tokens_meta", [tokens, 4], "u32");
  writeTensor(
    gpu.device,
    tokensMeta,
    Uint32Array.from({ length: 4 * tokens }, (_, i) => (i % 4 < 2 ? Math.floor(i / 4) : 0)),
  );
  const output = create("q", [tokens, width]);
  const dispatch = rotaryKv(gpu.traits, {
    x: x.tensor,
    qOffset: 0,
    kOffset: width,
    vOffset: 2 * width,
    heads,
    kvHeads: heads,
    headDim,
    cosSin: cosSin.tensor,
    tokensMeta,
    q: output,
    kv: create("kv", [Math.ceil(tokens / 16), 2, 16, width]),
  });
  const half = headDim / 2;
  return {
    dispatches: [dispatch],
    output,
    expected: (index) => {
      const [t, column] = [Math.floor(index / width), index % width];
      const [head, pair] = [column - (column % headDim), column % half];
      const [low, high] = [head + pair, head + pair + half].map((c) => x.at(t * 3 * width + c));
      const [cosine, sine] = [pair, pair + half].map((c) => cosSin.at(t * headDim + c));
      return column % headDim < half ? low * cosine - high * sine : high * cosine + low * sine;
    },
    tolerance: 4e-3,
  };
}

function gateCase(on: KernelCase["on"], tokens: number, channels: number): KernelCase {
  return {
    name: `gated-activation ${tokens}x${channels}`,
    on,
    build: (gpu) => buildGate(gpu, tokens, channels),
  };
}

function buildGate(gpu: Gpu, tokens: number, channels: number): BuiltCase {
  const x = randomTensor(gpu, { name: "x", shape: [tokens, 2 * channels], seed: 1 });
  const output = createTensor(gpu.device, {
    name: "y",
    dtype: "f32",
    shape: [tokens, channels],
    readable: true,
  });
  return {
    dispatches: [gatedActivation(gpu.traits, { x: x.tensor, y: output, activation: "silu" })],
    output,
    expected: (index) => {
      const at = Math.floor(index / channels) * 2 * channels + (index % channels);
      const gate = x.at(at);
      return (gate / (1 + Math.exp(-gate))) * x.at(at + channels);
    },
    tolerance: 1e-5,
  };
}

export const rowCases: readonly KernelCase[] = [
  normCase("cpu", 1, 256),
  normCase("cpu", 32, 256),
  normF16Case("cpu", 32, 256),
  rotaryKvCase("cpu", 32, 4, 64),
  gateCase("cpu", 1, 768),
  gateCase("cpu", 32, 768),
  normCase("gpu", 1, 1536),
  normCase("gpu", 4096, 1536),
  normF16Case("gpu", 1024, 1536),
  rotaryKvCase("gpu", 1024, 12, 128),
  gateCase("gpu", 4096, 4096),
];
