import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import type { Tensor } from "../tensor.ts";
import { checkMultiple, tokenGrid } from "./token-grid.ts";

export const rotarySpec: KernelSpec = {
  name: "rotary",
  files: ["rotary"],
  params: {
    tokens: "u32",
    row: "u32",
    offset: "u32",
    heads: "u32",
    head_dim: "u32",
    rotary_dim: "u32",
    positions: "u32",
  },
  tensors: {
    cos_sin: tensor("read", "f32", "positions rotary_dim"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    x: tensor("read_write", "f32", "tokens row"),
  },
};

export interface RotaryOptions {
  /** f32 [tokens, row], turned in place. */
  x: Tensor;
  /** f32 [positions, rotary_dim], from `rotaryTable`. */
  cosSin: Tensor;
  /** u32 [tokens, 4]; column 0 is the position, which must be in the table. */
  tokensMeta: Tensor;
  /** Heads lie one behind the other from column `offset` on; their channels from rotary_dim on stay as they are. */
  heads: { offset: number; count: number; channels: number };
}

/** Rotary position embedding (rotate-half) on heads of x: queries and keys in one go where they are adjacent. */
export function rotary(traits: GpuTraits, { x, cosSin, tokensMeta, heads }: RotaryOptions): Dispatch {
  const tensors = { cos_sin: cosSin, tokens_meta: tokensMeta, x };
  const { tokens, row, positions, rotary_dim } = matchTensors(rotarySpec, tensors);
  const { offset, count, channels } = heads;
  checkMultiple("rotary", "rotary_dim", rotary_dim, 2);
  checkAtMost("rotary_dim", channels, rotary_dim);
  checkAtMost("the end of the heads", row, offset + count * channels);
  const pairs = (count * rotary_dim) / 2;
  const headsAbreast = traits.isCpu ? 1 : count; // a GPU has lanes for all
  const { lanes, workgroups } = tokenGrid(traits, tokens, (headsAbreast * rotary_dim) / 2);
  return {
    spec: rotarySpec,
    file: "rotary",
    constants: { LANES: lanes, HEADS: headsAbreast },
    tensors,
    params: { tokens, row, offset, heads: count, head_dim: channels, rotary_dim, positions },
    workgroups,
    bytes: tokens * (pairs * 16 + rotary_dim * 4),
    flops: tokens * pairs * 6,
  };
}

function checkAtMost(name: string, most: number, value: number): void {
  if (value > most)
    throw new TypeError(`Cannot run rotary: expected ${name} to be at most ${most}, got ${value}`);
}
