import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { flatten, type Tensor } from "../tensor.ts";
import { chosen, tunable } from "../tuning.ts";
import { type FusedNorm, fusedTokensMax, normCode } from "./fused-linear.ts";
import { chooseTeams, type Teams, teamConsts, teamVariants, tokenTile } from "./teams.ts";
import { checkMultiple } from "./token-grid.ts";
import { scalesOf, weightBytes, weightConstants } from "./weights.ts";

export const qkvDecodeSpec: KernelSpec = {
  name: "qkv-decode",
  files: ["qkv-decode"],
  params: { tokens: "u32", positions: "u32", blocks: "u32", eps: "f32" },
  tensors: {
    x: tensor("read", "f32", "tokens inputs"),
    weight: tensor("read", "weights", "rows inputs"),
    scales: tensor("read", "packed", "scales"),
    norm: tensor("read", "f32", "norms"),
    bias: tensor("read", "f32", "biases"),
    cos_sin: tensor("read", "f32", "positions rotary_dim"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    y: tensor("read_write", "f32", "tokens y_row"),
    kv: tensor("read_write", "cache", "blocks 2 block_size kv_channels"),
  },
};

export interface QkvDecodeOptions {
  /** f32 [tokens, inputs]; at most 8 tokens. */
  x: Tensor;
  /** [rows, inputs]: gates (if gated), queries, keys, values. */
  weight: Tensor;
  norm?: FusedNorm;
  /** f32 [rows] */
  bias?: Tensor;
  /** f32 [positions, rotaryDim], from `rotaryTable`; left out, positions are not encoded. */
  cosSin?: Tensor;
  /** [tokens, 4]: position and slot of each token. */
  tokensMeta: Tensor;
  /** f32 [tokens, (gated ? 2 : 1) * heads * headDim]: gates (if gated), then queries; then, for an i8 cache, keys and values. */
  y: Tensor;
  /** The cache of one layer pass: index 0 of the second dimension holds keys, 1 values. One of i8 is left to `kvWrite`. */
  kv: Tensor;
  heads: number;
  kvHeads: number;
  headDim: number;
  gated?: boolean;
}

/**
 * All that comes before a decoder layer's attention: norm, product with the joint weight, rotary embedding
 * (rotate-half), keys and values stored at their slots. Heads must have no norms of their own.
 * Batches change a token's result no more than in `fusedLinear`.
 */
export function qkvDecode(traits: GpuTraits, options: QkvDecodeOptions, given?: Teams): Dispatch {
  const { x, weight, norm, bias, cosSin, tokensMeta, y, kv, heads, kvHeads, headDim, gated } = options;
  const filler = flatten(x);
  const tensors = {
    x,
    weight,
    scales: scalesOf(weight, filler),
    norm: norm?.weight ?? filler,
    bias: bias ?? filler,
    cos_sin: cosSin ?? { ...x, shape: [1, 0] },
    tokens_meta: tokensMeta,
    y,
    kv,
  };
  const sizes = matchTensors(qkvDecodeSpec, tensors);
  check(options, sizes);
  const { tokens, rows, inputs } = sizes;
  const variants = teamVariants(traits, {
    kernel: "qkv-decode",
    weight,
    tokens,
    byDefault: chooseTeams(traits, { tokens, weight, rowsStep: quadRows }),
    rowCounts: [quadRows],
  });
  const teams = given ?? chosen(traits, variants);
  return {
    spec: qkvDecodeSpec,
    file: "qkv-decode",
    constants: {
      ...weightConstants("qkv-decode", weight),
      KV_FORMAT: formatCode[kv.dtype] ?? 0,
      INPUTS: inputs,
      Y_HEADS: gated ? 2 * heads : heads,
      GATE_HEADS: gated ? heads : 0,
      KV_HEADS: kvHeads,
      HEAD_DIM: headDim,
      ROTARY_DIM: sizes.rotary_dim,
      BLOCK_SIZE: sizes.block_size,
      NORM: normCode(norm),
      BIAS: bias ? 1 : 0,
    },
    replace: replacements(teamConsts(traits, teams, weight, tokens)),
    tensors,
    params: { tokens, positions: sizes.positions, blocks: sizes.blocks, eps: norm?.eps ?? 0 },
    workgroups: [
      groups(rows / quadRows, teams.count),
      groups(tokens, tokenTile(tokens, weight, teams.lanes)),
      1,
    ],
    bytes: weightBytes(weight) + 4 * tokens * (inputs + rows),
    flops: 2 * tokens * inputs * rows,
    tunable: tunable(variants, (choice) => qkvDecode(traits, options, choice)),
  };
}

const quadRows = 4; // rows of a team

/** All but ROWS, which is four. */
function replacements({ ROWS: _, ...others }: Record<string, string>): Record<string, string> {
  return others;
}

function check(options: QkvDecodeOptions, sizes: Readonly<Record<string, number>>): void {
  const { heads, kvHeads, headDim, kv, gated, norm, bias } = options;
  const { tokens, inputs, rows, rotary_dim } = sizes;
  checkMultiple("qkv-decode", "inputs", inputs, 8);
  checkMultiple("qkv-decode", "headDim", headDim, 4);
  checkMultiple("qkv-decode", "rotary_dim", rotary_dim, 4);
  const expect = (what: string, wanted: number, found: number) => {
    if (wanted !== found) {
      throw new TypeError(`Cannot run qkv-decode: expected ${what} = ${wanted}, got ${found}`);
    }
  };
  if (tokens > fusedTokensMax) {
    throw new TypeError(`Cannot run qkv-decode: expected at most ${fusedTokensMax} tokens, got ${tokens}`);
  }
  if (rotary_dim > headDim) {
    throw new TypeError(`Cannot run qkv-decode: expected rotary_dim up to ${headDim}, got ${rotary_dim}`);
  }
  const yHeads = gated ? 2 * heads : heads;
  expect("rows of the weight", (yHeads + 2 * kvHeads) * headDim, rows);
  expect("y_row", (yHeads + (kv.dtype === "i8" ? 2 * kvHeads : 0)) * headDim, sizes.y_row);
  expect("kv_channels", kvHeads * headDim, sizes.kv_channels);
  if (norm?.weight) expect("norms", inputs, sizes.norms);
  if (bias) expect("biases", rows, sizes.biases);
}
