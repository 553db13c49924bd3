import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const sigmoidGateSpec: KernelSpec = {
  name: "sigmoid-gate",
  files: ["sigmoid-gate"],
  params: { tokens: "u32", channels: "u32", gate_row: "u32", gate_offset: "u32" },
  tensors: {
    gate: tensor("read", "f32", "tokens gate_row"),
    y: tensor("read_write", "f32", "tokens channels"),
  },
};

export interface SigmoidGateOptions {
  /** f32 [tokens, channels], changed in place. */
  y: Tensor;
  /** f32 [tokens, gate_row]; the gate is its columns from `gateOffset` on. */
  gate: Tensor;
  gateOffset: number;
}

/** y *= sigmoid(gate); channels, gate_row and gateOffset must be multiples of 4. */
export function sigmoidGate(traits: GpuTraits, { y, gate, gateOffset }: SigmoidGateOptions): Dispatch {
  const { tokens, channels, gate_row } = matchTensors(sigmoidGateSpec, { gate, y });
  checkMultiple("sigmoid-gate", "channels", channels, 4);
  checkMultiple("sigmoid-gate", "gate_row", gate_row, 4);
  checkMultiple("sigmoid-gate", "gate_offset", gateOffset, 4);
  if (gateOffset + channels > gate_row) {
    const found = `${gateOffset} + ${channels}`;
    throw new TypeError(`Cannot run sigmoid-gate: expected a gate within ${gate_row} columns, got ${found}`);
  }
  const { lanes, workgroups } = tokenGrid(traits, tokens, channels / 4);
  return {
    spec: sigmoidGateSpec,
    file: "sigmoid-gate",
    constants: { LANES: lanes },
    tensors: { gate, y },
    params: { tokens, channels, gate_row, gate_offset: gateOffset },
    workgroups,
    bytes: 12 * tokens * channels,
    flops: 4 * tokens * channels,
  };
}
