/** Kernels that read and write each row once: bound by memory, or by their launch. */
import type { Gpu } from "../src/gpu/gpu.ts";
import { gatedActivation } from "../src/gpu/kernels/gated-activation.ts";
import { rmsNorm } from "../src/gpu/kernels/rms-norm.ts";
import { createTensor } from "../src/gpu/tensor.ts";
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
  gateCase("cpu", 32, 768),
  normCase("gpu", 1, 1536),
  normCase("gpu", 4096, 1536),
  gateCase("gpu", 4096, 4096),
];
