/**
 * HRM-Text (arXiv 2605.20613): two stacks of blocks run in cycles over two states, a slow (high) and a fast (low) one.
 *
 *   for each high cycle: lowCycles times low = L(low + high); then high = H(high + low)
 *
 * A run of a stack ends with a norm. Weights are shared between runs, KV slots are not. Norms have no weight, the
 * attention's result is gated, and the prompt is read in both directions.
 */
import { add } from "../../gpu/kernels/add.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { Attention, type AttentionOptions } from "../layers/attention.ts";
import { DecoderBlock } from "../layers/block.ts";
import type { ForwardContext } from "../layers/context.ts";
import type { Linear } from "../layers/linear.ts";
import type { GatedMlp } from "../layers/mlp.ts";
import { RmsNorm } from "../layers/norm.ts";
import { PrefillPrefixLMAttention } from "../layers/prefill-prefix-lm-attention.ts";
import type { HrmConfig, ModelConfig } from "../weights/config.ts";
import { embedTokens, gatherRows, type ModelBuilder } from "./builder.ts";
import type { DecoderModel, LayerPass } from "./model.ts";

type Stack = "L_module" | "H_module";

/** The weights of one block, used by every run of its stack. */
interface BlockWeights {
  projection: Linear;
  output: Linear;
  mlp: GatedMlp;
}

export async function buildHrmText(builder: ModelBuilder): Promise<DecoderModel> {
  const { config, loader } = builder;
  if (config.architecture !== "hrm_text")
    throw new Error(`not an HRM-Text configuration: ${config.architecture}`);
  const { hiddenSize, embeddingScale, hrm } = config;
  const weights = {
    L_module: await loadStack(builder, "L_module"),
    H_module: await loadStack(builder, "H_module"),
  };
  const lowStart = await loader.vector([{ name: "model.z_L_init", rows: hiddenSize }]);
  const { table, head } = await builder.vocabulary();
  const stacks = stackRuns(hrm);
  const runs = stacks.map((stack, run) => {
    const isLowSet = stacks.indexOf("L_module") < run && hrm.lowCycles > 0;
    return buildRun(builder, {
      stack,
      run,
      weights: weights[stack],
      hrm,
      lowStart: isLowSet ? null : lowStart,
    });
  });
  return {
    config,
    attentions: runs.flatMap(({ blocks }) => blocks.map((block) => block.attention)),
    embed: (context) =>
      embedTokens(context, { table, y: state(context, "H_module", hiddenSize), scale: embeddingScale }),
    passes: runs.flatMap(({ passes }) => passes),
    finalStates: (context) => state(context, "H_module", hiddenSize),
    head: (context) => {
      const states = gatherRows(context, state(context, "H_module", hiddenSize));
      const logits = context.rowSpace.tensor("logits", context.rows, head.outputs);
      head.forward(context, { x: states, y: logits }, context.rowSpace);
      return logits;
    },
  };
}

/** Which stack runs when: L, ..., L, H, again and again. */
function stackRuns({ highCycles, lowCycles }: HrmConfig): Stack[] {
  const cycle: Stack[] = [...Array.from({ length: lowCycles }, () => "L_module" as const), "H_module"];
  return Array.from({ length: highCycles }, () => cycle).flat();
}

interface RunOptions {
  stack: Stack;
  /** Counts the runs of either stack; slots of a run follow each other. */
  run: number;
  weights: readonly BlockWeights[];
  hrm: HrmConfig;
  /** [hidden]: the low state of every token as long as no run has written one. */
  lowStart: Tensor | null;
}

function buildRun(builder: ModelBuilder, { stack, run, weights, hrm, lowStart }: RunOptions) {
  const { config } = builder;
  const norm = new RmsNorm({ eps: config.normEps });
  const blocks = weights.map(({ projection, output, mlp }, layer) => {
    const slot = run * hrm.layersPerStack + layer;
    const options = attentionOptions(builder, { slot, projection, output });
    const attention = hrm.prefixLm ? new PrefillPrefixLMAttention(options) : new Attention(options);
    return new DecoderBlock({ attention, mlp, attentionNorm: norm, mlpNorm: norm });
  });
  const last = blocks.length - 1;
  const passes = blocks.map((block, layer): LayerPass => (context) => {
    const { stream, recorder, traits } = context;
    const high = state(context, "H_module", config.hiddenSize);
    const low = state(context, "L_module", config.hiddenSize);
    if (layer === 0) recorder.add(add(traits, { a: high, b: lowStart ?? low, y: stream.whole(context) }));
    block.forward(context);
    if (layer === last)
      norm.forward(context, { x: stream.whole(context), y: stack === "H_module" ? high : low });
  });
  return { blocks, passes };
}

function attentionOptions(
  builder: ModelBuilder,
  { slot, projection, output }: { slot: number; projection: Linear; output: Linear },
): AttentionOptions {
  const { queryHeads, kvHeads, headDim, attentionScale, layers } = builder.config;
  return {
    attentionType: "decoder",
    slot,
    heads: queryHeads,
    kvHeads,
    headDim,
    scale: attentionScale,
    projection,
    output,
    gated: true,
    rotary: builder.rotary(layers[slot].rope),
  };
}

/** The state a stack updates, [tokens, hidden]. */
function state({ workspace, tokens }: ForwardContext, stack: Stack, hiddenSize: number): Tensor {
  return workspace.tensor(stack === "L_module" ? "low" : "high", tokens, hiddenSize);
}

async function loadStack(builder: ModelBuilder, stack: Stack): Promise<BlockWeights[]> {
  const { config } = builder;
  const weights: BlockWeights[] = [];
  for (let layer = 0; layer < (config.hrm as HrmConfig).layersPerStack; layer++) {
    weights.push(await loadBlock(builder, `model.${stack}.layers.${layer}`, config));
  }
  return weights;
}

/** Fused names (`attn.gqkv_proj`) or the split ones (`self_attn.gate_proj`, ...) that other tools write. */
async function loadBlock(builder: ModelBuilder, prefix: string, config: ModelConfig): Promise<BlockWeights> {
  const { queryHeads, headDim, hiddenSize, qkvBias, outputBias } = config;
  const rows = queryHeads * headDim;
  const fused = builder.loader.has(`${prefix}.attn.gqkv_proj.weight`);
  const attention = builder.loader.has(`${prefix}.attn.o_proj.weight`)
    ? `${prefix}.attn`
    : `${prefix}.self_attn`;
  const split = ["gate_proj", "q_proj", "k_proj", "v_proj"].map((name) => ({
    name: `${attention}.${name}`,
    rows,
  }));
  const parts = fused ? [{ name: `${prefix}.attn.gqkv_proj`, rows: 4 * rows }] : split;
  return {
    projection: await builder.linear(parts, hiddenSize, qkvBias),
    output: await builder.linear([{ name: `${attention}.o_proj`, rows: hiddenSize }], rows, outputBias),
    mlp: await builder.mlp(`${prefix}.mlp`),
  };
}
