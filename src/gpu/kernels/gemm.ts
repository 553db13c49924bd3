import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { bytesPerElement, type Dtype, flatten, type Tensor } from "../tensor.ts";
import { chosen, tokensClass, tunable, type Variants } from "../tuning.ts";
import type { Activation } from "./gated-activation.ts";
import {
  chooseTile,
  type GemmShape,
  type GemmTile,
  tileConsts,
  tileRows,
  tileTokens,
  triedTiles,
} from "./gemm-tiles.ts";
import { checkMultiple } from "./token-grid.ts";
import { scalesOf, weightBytes, weightConstants } from "./weights.ts";

export const gemmSpec: KernelSpec = {
  name: "gemm",
  files: ["gemm"],
  params: { tokens: "u32" },
  tensors: {
    x: tensor("read", "packed", "tokens inputs"),
    weight: tensor("read", "weights", "rows inputs"),
    scales: tensor("read", "packed", "scales"),
    bias: tensor("read", "packed", "biases"),
    y: tensor("read_write", "packed", "y_rows outputs"),
  },
};

export interface GemmOptions {
  /** f16 [tokens, inputs] */
  x: Tensor;
  /** f16, i8 or i4 [outputs, inputs]; of a gated product [2 * outputs, inputs], rows gate | up. */
  weight: Tensor;
  /** f32 or f16 [tokens, outputs]; of a product in shares f32 [shares * tokens, outputs]. Shares no memory with the rest. */
  y: Tensor;
  /** f32 [outputs] */
  bias?: Tensor;
  /** Adds to what y holds, in f32: a residual connection. */
  accumulate?: boolean;
  /** Makes the product a gated one: act(gate) * up. */
  activation?: Activation;
  /** Splits the sums into so many, each over a share of the inputs, for someone else to add up; see `gemmShares`. */
  shares?: number;
}

const dtypes: readonly Dtype[] = ["f16", "i8", "i4"];

/** Whether `gemm` can multiply such a matrix on this device. */
export function suitsGemm({ hasSubgroupMatrix }: GpuTraits, weight: Tensor): boolean {
  const [rows, inputs] = weight.shape;
  return hasSubgroupMatrix && dtypes.includes(weight.dtype) && rows % 16 === 0 && inputs % 32 === 0;
}

/**
 * y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]) (+ y[t, n]), or act(gate) * up, on matrix units: products
 * of f16, summed in f32. For `suitsGemm` only, and for more tokens than a few.
 *
 * A token's result does not depend on the others' values; with `traits.deterministic`, nor on how many there are.
 */
export function gemm(traits: GpuTraits, options: GemmOptions, given?: GemmTile): Dispatch {
  const { x, weight, y, bias, activation, accumulate, shares = 1 } = options;
  // A binding that is not read takes any tensor.
  const unread = flatten(x);
  const tensors = { x, weight, scales: scalesOf(weight, unread), bias: bias ?? unread, y };
  const sizes = matchTensors(gemmSpec, tensors);
  check(options, sizes);
  const { tokens, inputs, rows, outputs } = sizes;
  const shape = { tokens, inputs, rows, isGated: activation !== undefined, shares };
  const variants = tileVariants(traits, shape, weight);
  const tile = given ?? chosen(traits, variants);
  return {
    spec: gemmSpec,
    file: "gemm",
    constants: {
      ...weightConstants("gemm", weight),
      INPUTS: inputs,
      ROWS: rows,
      SHARES: shares,
      BIAS: bias ? 1 : 0,
      ACCUMULATE: accumulate ? 1 : 0,
      Y_FORMAT: formatCode[y.dtype] ?? 0,
    },
    replace: {
      ...tileConsts(tile, inputs / shares),
      GATED: `${activation ? activationCode[activation] : 0}`,
    },
    tensors,
    params: { tokens },
    workgroups: [groups(rows, tileRows(tile)), groups(tokens, tileTokens(tile)), shares],
    bytes: weightBytes(weight) + 2 * tokens * inputs + yBytes(options, outputs),
    flops: 2 * tokens * inputs * rows,
    tunable: tunable(variants, (choice) => gemm(traits, options, choice)),
  };
}

function tileVariants(traits: GpuTraits, shape: GemmShape, { dtype: format }: Tensor): Variants<GemmTile> {
  const { tokens, inputs, rows, shares = 1 } = shape;
  return {
    shape: { kernel: "gemm", rows, inputs: inputs / shares, tokens: tokensClass(tokens), format },
    byDefault: chooseTile(traits, shape),
    others: () => triedTiles(traits, shape),
  };
}

const activationCode: Record<Activation, number> = { silu: 1, "gelu-tanh": 2 };

function yBytes({ y, accumulate }: GemmOptions, outputs: number): number {
  return y.shape[0] * outputs * bytesPerElement[y.dtype] * (accumulate ? 2 : 1);
}

function check(options: GemmOptions, sizes: Readonly<Record<string, number>>): void {
  const { x, weight, y, bias, activation, accumulate, shares = 1 } = options;
  const { tokens, inputs, rows, outputs, y_rows } = sizes;
  const expect = (what: string, holds: boolean, found: number | string) => {
    if (!holds) throw new TypeError(`Cannot run gemm: expected ${what}, got ${found}`);
  };
  expect(`${x.name} to be f16`, x.dtype === "f16", x.dtype);
  expect(`${weight.name} to be one of ${dtypes.join(", ")}`, dtypes.includes(weight.dtype), weight.dtype);
  checkMultiple("gemm", "the inputs of a share", inputs / shares, 32);
  checkMultiple("gemm", "the rows of weight", rows, 16);
  const columns = activation ? rows / 2 : rows;
  expect(`y to have ${columns} columns`, outputs === columns, `${outputs} (${y.name})`);
  expect(`y to have ${shares * tokens} rows`, y_rows === shares * tokens, `${y_rows} (${y.name})`);
  expect("y to be f32 or f16", y.dtype !== "bf16", `${y.dtype} (${y.name})`);
  const needsF32 = accumulate === true || shares > 1;
  expect("y to be f32 where sums are added to it or are shares", !needsF32 || y.dtype === "f32", y.dtype);
  expect(
    "no activation, bias or y to add to where there are shares",
    shares === 1 || !(activation ?? bias ?? accumulate),
    shares,
  );
  if (bias) {
    expect(
      `bias f32 [${outputs}]`,
      bias.dtype === "f32" && bias.shape[0] === outputs,
      `${bias.dtype} [${bias.shape.join(", ")}]`,
    );
  }
}
