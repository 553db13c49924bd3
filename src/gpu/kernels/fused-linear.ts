import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { flatten, type Tensor } from "../tensor.ts";
import { chosen, tunable } from "../tuning.ts";
import type { Activation } from "./gated-activation.ts";
import { checkMultiple } from "./token-grid.ts";
import { scalesOf, weightBytes, weightConstants } from "./weights.ts";
import { chooseTeams, groupGrid, type Teams, teamConsts, teamVariants, tokenTile } from "./teams.ts";

export const fusedLinearSpec: KernelSpec = {
  name: "fused-linear",
  files: ["fused-linear"],
  params: { tokens: "u32", eps: "f32" },
  tensors: {
    x: tensor("read", "f32", "tokens inputs"),
    weight: tensor("read", "weights", "rows inputs"),
    scales: tensor("read", "packed", "scales"),
    norm: tensor("read", "f32", "norms"),
    bias: tensor("read", "f32", "biases"),
    y: tensor("read_write", "f32", "tokens outputs"),
  },
};

/** x / sqrt(mean of x^2 + eps), times a weight w or 1 + w if there is one. */
export interface FusedNorm {
  eps: number;
  /** f32 [inputs] */
  weight?: Tensor;
  /** Multiplies by 1 + w instead of w, as Gemma does. */
  plusOne?: boolean;
}

export interface FusedLinearOptions {
  /** f32 [tokens, inputs]; at most 8 tokens. */
  x: Tensor;
  /** [outputs, inputs]; of a gated product [2 * outputs, inputs], rows gate | up. */
  weight: Tensor;
  /** f32 [tokens, outputs]; shares no memory with the rest. */
  y: Tensor;
  /** RMS norm of x before the product. */
  norm?: FusedNorm;
  /** f32 [rows of the weight] */
  bias?: Tensor;
  /** Adds to what y holds: a residual connection. */
  accumulate?: boolean;
  /** Makes the product a gated one: act(gate) * up. */
  activation?: Activation;
}

/** Most tokens of the fused kernels for decoding. */
export const fusedTokensMax = 8;

/**
 * A product with what surrounds it in a decoder layer: y = act(g) * u or p, (+ y), where p (or g | u) is
 * norm(x) W^T (+ bias). For decoding, on GPUs with subgroups; summed in f32. inputs is a multiple of 8.
 *
 * A token's result does not depend on the others' values, and on their number only where compilers contract sums
 * differently for the 1, 2, 4 or 8 tokens a kernel is made for.
 */
export function fusedLinear(traits: GpuTraits, options: FusedLinearOptions, given?: Teams): Dispatch {
  const { x, weight, y, norm, bias, activation } = options;
  const filler = flatten(x);
  const tensors = {
    x,
    weight,
    scales: scalesOf(weight, filler),
    norm: norm?.weight ?? filler,
    bias: bias ?? filler,
    y,
  };
  const { tokens, inputs, outputs, rows } = matchTensors(fusedLinearSpec, tensors);
  check(options, { tokens, inputs, outputs, rows });
  const gated = activation !== undefined;
  const variants = teamVariants(traits, {
    kernel: "fused-linear",
    weight,
    tokens,
    byDefault: chooseTeams(traits, { tokens, weight, rowsStep: gated ? 2 : 1 }),
    rowCounts: gated ? [2, 4] : [1, 2, 4],
  });
  const teams = given ?? chosen(traits, variants);
  return {
    spec: fusedLinearSpec,
    file: "fused-linear",
    constants: {
      ...weightConstants("fused-linear", weight),
      INPUTS: inputs,
      OUTPUTS: outputs,
      NORM: normCode(norm),
      ACT: activation === "gelu-tanh" ? 1 : 0,
      BIAS: bias ? 1 : 0,
      ACCUMULATE: options.accumulate ? 1 : 0,
    },
    replace: { ...teamConsts(traits, teams, weight, tokens), GATED: String(gated) },
    tensors,
    params: { tokens, eps: norm?.eps ?? 0 },
    workgroups: groupGrid(
      groups(rows, teams.rows * teams.count),
      groups(tokens, tokenTile(tokens, weight, teams.lanes)),
    ),
    bytes: weightBytes(weight) + 4 * tokens * (inputs + outputs),
    flops: 2 * tokens * inputs * rows,
    tunable: tunable(variants, (choice) => fusedLinear(traits, options, choice)),
  };
}

/** Value of the NORM override. */
export function normCode(norm: FusedNorm | undefined): number {
  if (!norm) return 0;
  if (!norm.weight) return 1;
  return norm.plusOne ? 3 : 2;
}

type Sizes = Record<"tokens" | "inputs" | "outputs" | "rows", number>;

function check(options: FusedLinearOptions, { tokens, inputs, outputs, rows }: Sizes): void {
  const { weight, norm, bias, activation } = options;
  checkMultiple("fused-linear", "inputs", inputs, 8);
  const expect = (holds: boolean, what: string, found: string) => {
    if (!holds) throw new TypeError(`Cannot run fused-linear: expected ${what}, got ${found}`);
  };
  expect(tokens <= fusedTokensMax, `at most ${fusedTokensMax} tokens`, String(tokens));
  const rowsWanted = activation ? 2 * outputs : outputs;
  expect(rows === rowsWanted, `weight to have ${rowsWanted} rows`, `${rows} (${weight.name})`);
  const norms = norm?.weight?.shape[0] ?? inputs;
  expect(norms === inputs, `norm [${inputs}]`, `[${norms}] (${norm?.weight?.name})`);
  const biases = bias?.shape[0] ?? rows;
  expect(biases === rows, `bias [${rows}]`, `[${biases}] (${bias?.name})`);
}
