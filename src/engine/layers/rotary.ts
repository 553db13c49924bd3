/**
 * Cosines and sines of rotary position embeddings, in float32 step by step as transformers computes them
 * (modeling_rope_utils), so that long positions agree with its reference logits.
 */

import { bf16ToF32, f32ToBf16 } from "../weights/dtype.ts";

export interface RotarySpec {
  type: "default" | "linear" | "llama3";
  /** Base of the geometric series of wavelengths. */
  theta: number;
  /** Channels of a head that turn; even. */
  rotaryDim: number;
  /** "linear" and "llama3": how much slower the (low) frequencies turn. */
  factor?: number;
  /** "llama3": wavelengths over originalMaxPositions / lowFreqFactor are scaled by the whole factor... */
  lowFreqFactor?: number;
  /** ...those under originalMaxPositions / highFreqFactor not at all, those between smoothly in part. */
  highFreqFactor?: number;
  originalMaxPositions?: number;
}

/**
 * What a position is multiplied by. bf16 is what a model has that was cast to bfloat16 and back, as some references
 * are made: nothing to serve with, but needed to compare with those.
 */
export type FrequencyDtype = "f32" | "bf16";

/** [positions, rotaryDim]: in each row first the cosines of the rotaryDim / 2 angles, then their sines. */
export function rotaryTable(
  spec: RotarySpec,
  positions: number,
  dtype: FrequencyDtype = "f32",
): Float32Array {
  const exact = inverseFrequencies(spec);
  const frequencies = dtype === "f32" ? exact : bf16ToF32(f32ToBf16(exact));
  const half = frequencies.length;
  const table = new Float32Array(positions * 2 * half);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = f32(position * frequencies[i]);
      table[position * 2 * half + i] = Math.cos(angle);
      table[position * 2 * half + half + i] = Math.sin(angle);
    }
  }
  return table;
}

/** Radians per position of each of the rotaryDim / 2 pairs. */
export function inverseFrequencies(spec: RotarySpec): Float32Array {
  const { type, theta, rotaryDim } = spec;
  const plain = Float32Array.from({ length: rotaryDim / 2 }, (_, i) =>
    f32(1 / f32(Math.pow(theta, f32((2 * i) / rotaryDim)))),
  );
  switch (type) {
    case "default":
      return plain;
    case "linear": {
      const factor = required(spec, "factor");
      return plain.map((frequency) => frequency / factor);
    }
    case "llama3":
      return plain.map(llama3Scaling(spec));
  }
}

function llama3Scaling(spec: RotarySpec): (frequency: number) => number {
  const factor = required(spec, "factor");
  const low = required(spec, "lowFreqFactor");
  const high = required(spec, "highFreqFactor");
  const context = required(spec, "originalMaxPositions");
  return (frequency) => {
    const wavelength = f32(f32(2 * Math.PI) / frequency);
    if (wavelength > context / low) return f32(frequency / factor);
    if (wavelength < context / high) return frequency;
    const smooth = f32(f32(f32(context / wavelength) - low) / (high - low));
    const slow = f32(f32(f32(1 - smooth) * frequency) / factor);
    return f32(slow + f32(smooth * frequency));
  };
}

function required(
  spec: RotarySpec,
  name: "factor" | "lowFreqFactor" | "highFreqFactor" | "originalMaxPositions",
): number {
  const value = spec[name];
  if (value === undefined)
    throw new Error(`Cannot make a rotary table of type ${spec.type}: expected ${name}, got nothing`);
  return value;
}

const f32 = Math.fround;
