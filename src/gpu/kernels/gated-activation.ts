import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const gatedActivationSpec: KernelSpec = {
  name: "gated-activation",
  files: ["gated-activation"],
  params: { tokens: "u32", channels: "u32" },
  tensors: {
    x: tensor("read", "f32", "tokens x_row"),
    y: tensor("read_write", "f32", "tokens channels"),
  },
};

export type Activation = "silu" | "gelu-tanh";
const activationCode: Record<Activation, number> = { silu: 0, "gelu-tanh": 1 };

export interface GatedActivationOptions {
  /** f32 [tokens, 2 * channels]: gate | up */
  x: Tensor;
  /** f32 [tokens, channels] */
  y: Tensor;
  activation: Activation;
}

/** y = act(gate) * up; channels must be a multiple of 4, and x and y must not share memory. */
export function gatedActivation(traits: GpuTraits, { x, y, activation }: GatedActivationOptions): Dispatch {
  const { tokens, channels, x_row } = matchTensors(gatedActivationSpec, { x, y });
  checkMultiple("gated-activation", "channels", channels, 4);
  if (x_row !== 2 * channels) {
    const found = `${x_row} (${x.name})`;
    throw new TypeError(
      `Cannot run gated-activation: expected x to have ${2 * channels} columns, got ${found}`,
    );
  }
  const { lanes, workgroups } = tokenGrid(traits, tokens, channels / 4);
  return {
    spec: gatedActivationSpec,
    file: "gated-activation",
    constants: { LANES: lanes, ACT: activationCode[activation] },
    tensors: { x, y },
    params: { tokens, channels },
    workgroups,
    bytes: 12 * tokens * channels,
    flops: 6 * tokens * channels,
  };
}
