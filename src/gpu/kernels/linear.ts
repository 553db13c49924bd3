import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, groups, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { type Dtype, flatten, type Tensor } from "../tensor.ts";
import { chosen, tokensClass, tunable, type TuningShape, type Variants } from "../tuning.ts";
import { scalesOf, weightBytes, weightConstants } from "./weights.ts";

export const linearSpec: KernelSpec = {
  name: "linear",
  files: ["linear-cpu", "linear-cpu-subgroup", "linear-matvec", "linear-matvec-subgroup", "linear-matmul"],
  params: { tokens: "u32", inputs: "u32", outputs: "u32" },
  tensors: {
    x: tensor("read", "f32", "tokens inputs"),
    weight: tensor("read", "weights", "outputs inputs"),
    scales: tensor("read", "packed", "scales"),
    bias: tensor("read", "f32", "biases"),
    y: tensor("read_write", "f32", "tokens outputs"),
  },
};

export interface LinearOptions {
  x: Tensor;
  /** If it is quantised, its scales are f16 [outputs, groups of inputs]. */
  weight: Tensor;
  y: Tensor;
  /** [outputs] */
  bias?: Tensor;
  /** Adds to what y holds: a residual connection. */
  accumulate?: boolean;
}

interface Sizes {
  tokens: number;
  inputs: number;
  outputs: number;
}

/** How the work is shared out, where that can be chosen. */
export type LinearShape =
  | { /** Of a workgroup of linear-cpu and linear-cpu-subgroup. */ lanes: number }
  | { /** Outputs of a lane of linear-matmul, along either side. */ perLane: number };

type Variant = Pick<Dispatch, "file" | "constants" | "replace" | "workgroups">;

/**
 * y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]) (+ y[t, n]), summed in f32.
 *
 * inputs is a multiple of 8; y shares no memory with the rest. Within a file a token's result does not depend on how
 * many others there are; which file runs depends on the adapter and, on a GPU, on whether there are more than 8 tokens.
 */
export function linear(traits: GpuTraits, options: LinearOptions, given?: LinearShape): Dispatch {
  const { x, weight, y } = options;
  const unread = flatten(x);
  const scales = scalesOf(weight, unread);
  const tensors = { x, weight, scales, bias: options.bias ?? unread, y };
  const { tokens, inputs, outputs } = matchTensors(linearSpec, tensors);
  checkSizes(options, inputs, outputs);
  const sizes = { tokens, inputs, outputs };
  const variants = shapeVariants(traits, sizes, weight);
  const variant = chooseVariant(
    traits,
    { ...sizes, dtype: weight.dtype },
    given ?? (variants && chosen(traits, variants)),
  );
  return {
    spec: linearSpec,
    ...variant,
    constants: {
      ...weightConstants("linear", weight),
      BIAS: options.bias ? 1 : 0,
      ACCUMULATE: options.accumulate ? 1 : 0,
      ...variant.constants,
    },
    tensors,
    params: { tokens, inputs, outputs },
    bytes: weightBytes(weight) + 4 * tokens * (inputs + outputs),
    flops: 2 * tokens * inputs * outputs,
    tunable: variants && tunable(variants, (choice) => linear(traits, options, choice)),
  };
}

function checkSizes({ weight, bias }: LinearOptions, inputs: number, outputs: number): void {
  if (inputs % 8 !== 0) {
    throw new TypeError(
      `Cannot run linear: expected weight to have inputs in multiples of 8, got ${inputs} (${weight.name})`,
    );
  }
  if (bias && bias.shape[0] !== outputs) {
    throw new TypeError(
      `Cannot run linear: expected bias [${outputs}], got [${bias.shape[0]}] (${bias.name})`,
    );
  }
}

const matvecTokensMax = 8;

function chooseVariant(
  traits: GpuTraits,
  sizes: Sizes & { dtype: Dtype },
  shape: LinearShape = { perLane: 1 },
): Variant {
  // On a CPU adapter a token's sums are the same in every tile.
  if ("lanes" in shape)
    return hasSubgroupsOfFour(traits) ? cpuSubgroup(sizes, shape.lanes) : cpu(sizes, shape.lanes);
  if (traits.deterministic) return matmul(sizes, 1);
  if (sizes.tokens > matvecTokensMax) return matmul(sizes, shape.perLane);
  return traits.hasSubgroups ? matvecSubgroup(sizes) : matvec(sizes);
}

/** What may be chosen; undefined where there is one variant. */
function shapeVariants(
  { isCpu, deterministic }: GpuTraits,
  { tokens, inputs, outputs }: Sizes,
  { dtype: format }: Tensor,
): Variants<LinearShape> | undefined {
  const shapeOf = (kernel: string): TuningShape => ({
    kernel,
    rows: outputs,
    inputs,
    tokens: tokensClass(tokens),
    format,
  });
  if (isCpu) {
    return {
      shape: shapeOf("linear-cpu"),
      byDefault: { lanes: cpuLanes },
      others: () => [4, 16, 32].map((lanes) => ({ lanes })),
    };
  }
  if (deterministic || tokens <= matvecTokensMax) return undefined;
  return {
    shape: shapeOf("linear-matmul"),
    byDefault: { perLane: tileSize(tokens * outputs) },
    others: () => [1, 2].map((perLane) => ({ perLane })),
  };
}

const cpuLanes = 8; // llvmpipe runs eight side by side, SwiftShader four
const cpuRows = 8; // outputs a lane

function cpu({ tokens, outputs }: Sizes, lanes: number): Variant {
  const tile = cheapestTile(tokens, [8, 4, 2, 1], 3);
  return {
    file: "linear-cpu",
    constants: { TOKENS: tile, LANES: lanes },
    workgroups: [groups(outputs, cpuRows * lanes), groups(tokens, tile), 1],
  };
}

/** As SwiftShader has them. */
function hasSubgroupsOfFour({ hasSubgroups, subgroupMinSize, subgroupMaxSize }: GpuTraits): boolean {
  return hasSubgroups && subgroupMinSize === 4 && subgroupMaxSize === 4;
}

function cpuSubgroup({ tokens, outputs, dtype }: Sizes & { dtype: Dtype }, lanes: number): Variant {
  const isQuantized = dtype === "i8" || dtype === "i4";
  // Larger tiles, of tokens or outputs, are 10 to 20 % faster, and take half a second each to compile at every start.
  const tile = cheapestTile(tokens, [8, 4, 2, 1], isQuantized ? 8 : 3);
  const rows = tile === 1 ? cpuRows / 2 : cpuRows;
  return {
    file: "linear-cpu-subgroup",
    constants: { LANES: lanes },
    replace: { ROWS: String(rows), TOKENS: String(tile) },
    workgroups: [groups(outputs, rows * lanes), groups(tokens, tile), 1],
  };
}

/** Tokens a tile, where reading and widening a tile's weights takes the time of so many of its tokens (measured). */
function cheapestTile(tokens: number, tiles: readonly number[], weightsCost: number): number {
  const cost = (tile: number) => groups(tokens, tile) * (weightsCost + tile);
  return tiles.reduce((best, tile) => (cost(tile) < cost(best) ? tile : best));
}

function matvec({ tokens, outputs }: Sizes): Variant {
  const rows = tokens > 2 ? 2 : 4; // more sums a lane would not fit its registers
  return {
    file: "linear-matvec",
    constants: {},
    replace: { TOKENS: String(matvecTokens(tokens)), ROWS: String(rows), LANES: "64" },
    workgroups: grid(groups(outputs, rows)),
  };
}

function matvecSubgroup({ tokens, outputs }: Sizes): Variant {
  const groupRows = 8;
  return {
    file: "linear-matvec-subgroup",
    constants: {},
    replace: {
      TOKENS: String(matvecTokens(tokens)),
      ROWS: "2",
      GROUP_ROWS: String(groupRows),
      LANES: "128",
    },
    workgroups: grid(groups(outputs, groupRows)),
  };
}

/** A power of two, so that few pipelines serve all counts. */
function matvecTokens(tokens: number): number {
  return 2 ** Math.ceil(Math.log2(tokens));
}

function matmul({ tokens, outputs }: Sizes, perLane: number): Variant {
  const tile = 64 * perLane;
  return {
    file: "linear-matmul",
    constants: {},
    replace: { PER_LANE: String(perLane) },
    workgroups: [groups(outputs, tile), groups(tokens, tile), 1],
  };
}

function tileSize(elements: number): number {
  return elements >= 128 * 128 * largeTileGroupsMin ? 2 : 1;
}

/** Fewest tiles of 128 x 128 worth having: with fewer, the cores of a large GPU stay empty. */
const largeTileGroupsMin = 256;

/** Workgroups in two dimensions, of which each may have at most 65535. */
function grid(count: number): [number, number, number] {
  const y = groups(count, 65535);
  return [groups(count, y), y, 1];
}
