import type { GpuTraits } from "../gpu.ts";
import { type Dispatch, formatCode, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { flatten, joined, type Tensor } from "../tensor.ts";
import {
  defaultChoice,
  type PassChoice,
  type PassShape,
  passShape,
  type PassSizes,
  vec4u,
} from "./decode-pass-shape.ts";
import { type FusedNorm, normCode } from "./fused-linear.ts";
import type { Activation } from "./gated-activation.ts";
import { weightBytes, weightConstants } from "./weights.ts";

export const decodePassSpec: KernelSpec = {
  name: "decode-pass",
  files: ["decode-pass"],
  params: { eps: "f32", scale: "f32", soft_cap: "f32", positions: "u32", blocks: "u32", always: "u32" },
  tensors: {
    x: tensor("read_write", "f32", "tokens hidden"),
    qkv: tensor("read", "weights", "qkv_rows hidden"),
    output: tensor("read", "weights", "hidden channels"),
    gate_up: tensor("read", "weights", "gate_up_rows hidden"),
    down: tensor("read", "weights", "hidden intermediate"),
    norms: tensor("read", "f32", "norms"),
    cos_sin: tensor("read", "f32", "positions rotary_dim"),
    tokens_meta: tensor("read", "u32", "tokens 4"),
    sequences: tensor("read", "u32", "sequences 4"),
    block_tables: tensor("read", "u32", "sequences blocks_per_sequence"),
    kv: tensor("read_write", "packed", "blocks 2 block_size kv_channels"),
    handoff: tensor("read_write", "u32", "handoff_words"),
  },
};

/** A layer's weights and geometry: what does not change from step to step. */
export interface PassLayer {
  /** [rows, hidden]: gates (if gated), queries, keys, values. */
  qkv: Tensor;
  /** [hidden, heads * headDim] */
  output: Tensor;
  /** [2 * intermediate, hidden] */
  gateUp: Tensor;
  /** [hidden, intermediate] */
  down: Tensor;
  /** Of x before attention and before the MLP; their weights, if any, side by side in one buffer. */
  norms: readonly [FusedNorm, FusedNorm];
  activation: Activation;
  heads: number;
  kvHeads: number;
  headDim: number;
  gated?: boolean;
  /** f32 [positions, rotaryDim], from `rotaryTable`; left out, positions are not encoded. */
  cosSin?: Tensor;
  scale: number;
  window?: number;
  softCap?: number;
}

export interface DecodePassOptions extends PassLayer {
  /** f32 [1, hidden]: the residual stream. */
  x: Tensor;
  /** [1, 4] */
  tokensMeta: Tensor;
  sequences: Tensor;
  blockTables: Tensor;
  /** The cache of this layer pass, f32, f16 or bf16. */
  kv: Tensor;
  /** u32 [handoffWords], zeroed when made, which nothing else writes; passes of any layers may share it. */
  handoff: Tensor;
}

/** What `decodePass` needs to know of a layer before it is recorded. */
export type PassCandidate = PassLayer & Pick<DecodePassOptions, "kv">;

/**
 * A decoder layer's pass of one token in one dispatch, where the device runs `residentWorkgroups` workgroups at once:
 * x += attention(norm(x)); x += mlp(norm(x)). Who waits in vain gives up and sets handoff[1], which must be looked at.
 */
export function decodePass(
  traits: GpuTraits,
  options: DecodePassOptions,
  given?: Partial<PassChoice>,
): Dispatch {
  const { x, qkv, output, gateUp, down, norms, cosSin, tokensMeta, sequences, blockTables, kv, handoff } =
    options;
  const shape = shapeOf(traits, options, given);
  if (typeof shape === "string") throw new TypeError(`Cannot run decode-pass: expected ${shape}`);
  const unread: Tensor = { ...tokensMeta, dtype: "f32" }; // x, which is written, may not be bound twice
  const tensors = {
    x,
    qkv: withScales(qkv),
    output: withScales(output),
    gate_up: withScales(gateUp),
    down: withScales(down),
    norms: normsOf(norms) ?? flatten(unread),
    cos_sin: cosSin ?? { ...unread, shape: [1, 0] },
    tokens_meta: tokensMeta,
    sequences,
    block_tables: blockTables,
    kv,
    handoff,
  };
  const sizes = matchTensors(decodePassSpec, tensors);
  check(options, sizes, shape);
  return {
    spec: decodePassSpec,
    file: "decode-pass",
    constants: constantsOf(options, sizes, shape),
    replace: {
      ...shape.consts,
      SCALES_AT: vec4u([qkv, output, gateUp, down].map(scalesAt)),
      ...(traits.hasF16 && { HAS_F16: "true", Pair: "vec2<f16>" }),
    },
    tensors,
    params: {
      eps: norms[0].eps,
      scale: options.scale,
      soft_cap: options.softCap ?? 0,
      positions: sizes.positions,
      blocks: sizes.blocks,
      always: 1,
    },
    workgroups: [shape.workgroups, 1, 1],
    bytes: [qkv, output, gateUp, down].reduce((sum, weight) => sum + weightBytes(weight), 0),
    flops: 2 * (qkv.shape[0] + down.shape[1] * 3 + output.shape[1]) * sizes.hidden,
  };
}

/** Words that a layer's pass hands over, or undefined if it cannot be run so on this device. */
export function handoffWords(
  traits: GpuTraits,
  layer: PassCandidate,
  given?: Partial<PassChoice>,
): number | undefined {
  const shape = shapeOf(traits, layer, given);
  return typeof shape === "string" ? undefined : shape.handoffWords;
}

function shapeOf(
  traits: GpuTraits,
  layer: PassCandidate,
  given: Partial<PassChoice> = {},
): PassShape | string {
  const { qkv, output, gateUp, down, norms, kv, heads, kvHeads, headDim } = layer;
  const weights = [qkv, output, gateUp, down];
  const [first, second] = norms;
  const mayBeRun: Readonly<Record<string, boolean>> = {
    subgroups: traits.hasSubgroups,
    "weights of one format": weights.every(({ dtype }) => dtype === qkv.dtype),
    "scales behind their matrices": weights.every(
      (weight) => !weight.scales || joined(weight, weight.scales),
    ),
    "norms of one kind, side by side":
      normCode(first) === normCode(second) &&
      first.eps === second.eps &&
      (!first.weight || normsOf(norms) !== undefined),
    "keys and values of f32, f16 or bf16": ["f32", "f16", "bf16"].includes(kv.dtype),
  };
  const wrong = Object.keys(mayBeRun).find((what) => !mayBeRun[what]);
  if (wrong) return wrong;
  const sizes: PassSizes = {
    hidden: qkv.shape[1],
    intermediate: down.shape[1],
    heads,
    kvHeads,
    headDim,
    qkvRows: qkv.shape[0],
    format: qkv.dtype,
  };
  return passShape(traits, sizes, { ...defaultChoice(traits, sizes), ...given });
}

function constantsOf(
  { qkv, norms, kv, activation, gated, window }: DecodePassOptions,
  sizes: Readonly<Record<string, number>>,
  shape: PassShape,
): Record<string, number> {
  return {
    ...weightConstants("decode-pass", qkv),
    KV_FORMAT: formatCode[kv.dtype] ?? 0,
    NORM: normCode(norms[0]),
    ACT: activation === "gelu-tanh" ? 1 : 0,
    GATED: gated ? 1 : 0,
    ROTARY_DIM: sizes.rotary_dim,
    BLOCK_SIZE: sizes.block_size,
    BLOCKS_PER_SEQUENCE: sizes.blocks_per_sequence,
    WINDOW: window ?? 0,
    SHARE_KEYS: shape.shareKeys,
  };
}

/** The matrix, bound with its scales. */
function withScales(weight: Tensor): Tensor {
  return weight.scales ? (joined(weight, weight.scales) ?? weight) : weight;
}

/** Where the scales begin, in 16 bytes. */
function scalesAt({ offset, scales }: Tensor): number {
  return scales ? (scales.offset - offset) / 16 : 0;
}

function normsOf([first, second]: readonly [FusedNorm, FusedNorm]): Tensor | undefined {
  if (!first.weight || !second.weight) return undefined;
  const both = joined(first.weight, second.weight);
  const count = first.weight.shape[0];
  return both?.size === 8 * count ? { ...both, shape: [2 * count] } : undefined;
}

function check(
  { heads, kvHeads, headDim, gated }: PassLayer,
  sizes: Readonly<Record<string, number>>,
  shape: PassShape,
): void {
  const expect = (what: string, wanted: number, found: number) => {
    if (wanted !== found)
      throw new TypeError(`Cannot run decode-pass: expected ${what} = ${wanted}, got ${found}`);
  };
  expect("tokens", 1, sizes.tokens);
  expect("qkv_rows", ((gated ? 2 : 1) * heads + 2 * kvHeads) * headDim, sizes.qkv_rows);
  expect("channels", heads * headDim, sizes.channels);
  expect("kv_channels", kvHeads * headDim, sizes.kv_channels);
  expect("gate_up_rows", 2 * sizes.intermediate, sizes.gate_up_rows);
  expect("handoff_words", shape.handoffWords, sizes.handoff_words);
}
