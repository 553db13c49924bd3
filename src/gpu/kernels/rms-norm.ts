import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { flatten, type Tensor } from "../tensor.ts";

export const rmsNormSpec: KernelSpec = {
  name: "rms-norm",
  files: ["rms-norm", "rms-norm-cpu"],
  params: {
    tokens: "u32",
    channels: "u32",
    x_row: "u32",
    x_offset: "u32",
    y_row: "u32",
    y_offset: "u32",
    eps: "f32",
  },
  tensors: {
    x: tensor("read", "f32", "tokens x_row"),
    weight: tensor("read", "f32", "weights"),
    y: tensor("read_write", "f32", "tokens y_row"),
  },
};

export interface RmsNormOptions {
  x: Tensor;
  y: Tensor;
  /** [channels]; left out, the norm has no weight. */
  weight?: Tensor;
  /** Multiplies by 1 + w instead of w, as Gemma does. */
  weightPlusOne?: boolean;
  /** Adds to what y holds. */
  accumulate?: boolean;
  eps: number;
  /** Normalises `count` groups of `channels` each (heads) that start at these columns; by default whole rows. */
  heads?: { count: number; channels: number; xOffset: number; yOffset: number };
}

/** y [+]= x / rms(x) [* w], over rows or over the heads of a slice of rows. x and y must not share memory. */
export function rmsNorm(traits: GpuTraits, options: RmsNormOptions): Dispatch {
  const { x, y, weight, eps } = options;
  const sizes = matchTensors(rmsNormSpec, { x, weight: weight ?? flatten(x), y });
  const { tokens, x_row, y_row } = sizes;
  const { count, channels, xOffset, yOffset } = options.heads ?? {
    count: 1,
    channels: x_row,
    xOffset: 0,
    yOffset: 0,
  };
  checkColumns("x", xOffset + count * channels, x_row);
  checkColumns("y", yOffset + count * channels, y_row);
  if (weight && weight.shape[0] !== channels) {
    throw new TypeError(
      `Cannot run rms-norm: expected weight [${channels}], got [${weight.shape[0]}] (${weight.name})`,
    );
  }
  const elements = tokens * count * channels;
  return {
    spec: rmsNormSpec,
    file: traits.isCpu ? "rms-norm-cpu" : "rms-norm",
    constants: {
      LANES: lanes(traits, channels),
      WEIGHT: !weight ? 0 : options.weightPlusOne ? 2 : 1,
      ACCUMULATE: options.accumulate ? 1 : 0,
    },
    tensors: { x, weight: weight ?? flatten(x), y },
    params: { tokens, channels, x_row, x_offset: xOffset, y_row, y_offset: yOffset, eps },
    workgroups: traits.isCpu ? [groups(tokens, cpuLanes), count, 1] : [tokens, count, 1],
    bytes: 8 * elements,
    flops: 4 * elements,
  };
}

const cpuLanes = 4; // small, so that a few tokens already occupy every core

function lanes(traits: GpuTraits, channels: number): number {
  if (traits.isCpu) return cpuLanes;
  return channels <= 64 ? 64 : channels <= 1024 ? 128 : 256;
}

function checkColumns(name: string, end: number, row: number): void {
  if (end > row)
    throw new TypeError(`Cannot run rms-norm: expected heads within ${row} columns of ${name}, got ${end}`);
}
