import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const addSpec: KernelSpec = {
  name: "add",
  files: ["add"],
  params: { tokens: "u32", channels: "u32", b_step: "u32" },
  tensors: {
    a: tensor("read", "f32", "tokens channels"),
    b: tensor("read", "f32", "b_rows channels"),
    y: tensor("read_write", "f32", "tokens channels"),
  },
};

export interface AddOptions {
  /** f32 [tokens, channels] */
  a: Tensor;
  /** f32 [tokens, channels], or [channels] (or [1, channels]) to be added to every row. */
  b: Tensor;
  /** f32 [tokens, channels] */
  y: Tensor;
}

/** y = a + b; channels must be a multiple of 4, and y must not share memory with a or b. */
export function add(traits: GpuTraits, { a, b, y }: AddOptions): Dispatch {
  const tensors = { a, b: b.shape.length === 1 ? { ...b, shape: [1, ...b.shape] } : b, y };
  const { tokens, channels, b_rows } = matchTensors(addSpec, tensors);
  checkMultiple("add", "channels", channels, 4);
  if (b_rows !== 1 && b_rows !== tokens) {
    throw new TypeError(`Cannot run add: expected b to have 1 or ${tokens} rows, got ${b_rows} (${b.name})`);
  }
  const { lanes, workgroups } = tokenGrid(traits, tokens, channels / 4);
  return {
    spec: addSpec,
    file: "add",
    constants: { LANES: lanes },
    tensors,
    params: { tokens, channels, b_step: b_rows === 1 ? 0 : 1 },
    workgroups,
    bytes: 4 * channels * (2 * tokens + b_rows),
    flops: tokens * channels,
  };
}
