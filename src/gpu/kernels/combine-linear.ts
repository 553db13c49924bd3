import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { flatten, type Tensor } from "../tensor.ts";
import { chosen, tunable } from "../tuning.ts";
import { sharesRow } from "./attention-decode.ts";
import { fusedTokensMax } from "./fused-linear.ts";
import { groupGrid, type Teams, teamConsts, teamVariants, tokenTile } from "./teams.ts";
import { checkMultiple } from "./token-grid.ts";
import { scalesOf, weightBytes, weightConstants } from "./weights.ts";

export const combineLinearSpec: KernelSpec = {
  name: "combine-linear",
  files: ["combine-linear"],
  params: { tokens: "u32" },
  tensors: {
    shares: tensor("read", "f32", "tokens share_row"),
    gate: tensor("read", "f32", "tokens gate_row"),
    weight: tensor("read", "weights", "outputs inputs"),
    scales: tensor("read", "packed", "scales"),
    bias: tensor("read", "f32", "biases"),
    y: tensor("read_write", "f32", "tokens outputs"),
  },
};

export interface CombineLinearOptions {
  /** f32 [tokens, sharesRow(heads, splits, headDim)], from `attentionDecode` with more than one split. */
  shares: Tensor;
  splits: number;
  headDim: number;
  /** [outputs, heads * headDim] */
  weight: Tensor;
  /** f32 [tokens, outputs] */
  y: Tensor;
  /** f32 [tokens, gate_row]: attention's result is multiplied by the sigmoid of heads * headDim columns. */
  gate?: { tensor: Tensor; offset: number };
  /** f32 [outputs] */
  bias?: Tensor;
  /** Adds to what y holds: a residual connection. */
  accumulate?: boolean;
}

/** Most shares that a lane reads before it is known how many there are. */
const roundMax = 8;

/**
 * One workgroup a core of an H100, since each adds up all shares first, with many lanes for that: what was fastest there
 * (docs/log.md).
 */
function combineTeams({ subgroupMaxSize, workgroupLanesMax }: GpuTraits, outputs: number): Teams {
  const lanes = Math.max(32, subgroupMaxSize);
  const wanted = Math.min(Math.max(groups(outputs, 128), 4), 16);
  return { count: Math.max(1, Math.min(wanted, Math.floor(workgroupLanesMax / lanes))), lanes, rows: 1 };
}

/** Adds up the shares of `attentionDecode` and multiplies the result with the output projection. */
export function combineLinear(traits: GpuTraits, options: CombineLinearOptions, given?: Teams): Dispatch {
  const { shares, weight, y, gate, bias, headDim, splits } = options;
  const filler = flatten(shares);
  const tensors = {
    shares,
    gate: gate?.tensor ?? shares,
    weight,
    scales: scalesOf(weight, filler),
    bias: bias ?? filler,
    y,
  };
  const sizes = matchTensors(combineLinearSpec, tensors);
  check(options, sizes);
  const { tokens, inputs, outputs } = sizes;
  const variants = teamVariants(traits, {
    kernel: "combine-linear",
    weight,
    tokens,
    byDefault: combineTeams(traits, outputs),
    rowCounts: [1, 2],
  });
  const teams = given ?? chosen(traits, variants);
  return {
    spec: combineLinearSpec,
    file: "combine-linear",
    constants: {
      ...weightConstants("combine-linear", weight),
      OUTPUTS: outputs,
      HEAD_DIM: headDim,
      SPLITS: splits,
      GATE_ROW: sizes.gate_row,
      GATE_OFFSET: gate?.offset ?? 0,
      GATED: gate ? 1 : 0,
      BIAS: bias ? 1 : 0,
      ACCUMULATE: options.accumulate ? 1 : 0,
    },
    replace: {
      ...teamConsts(traits, teams, weight, tokens),
      INPUTS: String(inputs),
      ROUND: String(Math.min(splits, roundMax)),
    },
    tensors,
    params: { tokens },
    workgroups: groupGrid(
      groups(outputs, teams.rows * teams.count),
      groups(tokens, tokenTile(tokens, weight, teams.lanes)),
    ),
    bytes: weightBytes(weight) + 4 * tokens * (inputs + outputs),
    flops: 2 * tokens * inputs * outputs,
    tunable: tunable(variants, (choice) => combineLinear(traits, options, choice)),
  };
}

function check(options: CombineLinearOptions, sizes: Readonly<Record<string, number>>): void {
  const { splits, headDim, gate, bias } = options;
  const { tokens, inputs, outputs } = sizes;
  checkMultiple("combine-linear", "headDim", headDim, 8);
  checkMultiple("combine-linear", "inputs", inputs, headDim);
  checkMultiple("combine-linear", "the offset of gate", gate?.offset ?? 0, 4);
  const expect = (what: string, holds: boolean, found: number) => {
    if (!holds) throw new TypeError(`Cannot run combine-linear: expected ${what}, got ${found}`);
  };
  const row = sharesRow(inputs / headDim, splits, headDim);
  expect(`share_row = ${row}`, sizes.share_row === row, sizes.share_row);
  expect(`at most ${fusedTokensMax} tokens`, tokens <= fusedTokensMax, tokens);
  const end = (gate?.offset ?? 0) + inputs;
  if (gate) expect(`gate to have at least ${end} columns`, end <= sizes.gate_row, sizes.gate_row);
  if (bias) expect(`bias [${outputs}]`, sizes.biases === outputs, sizes.biases);
}
