/**
 * Llama and its kin: pre-norm blocks of attention and a gated MLP, a final norm, a head.
 *
 * Mistral (sliding window), Qwen 2 (biases), Phi 3 (fused tensors, partial rotation) and SmolLM 3 (layers without
 * rotation) differ by what their configuration says and how tensors are named, so they are this model too.
 */
import type { Tensor } from "../../gpu/tensor.ts";
import { Attention, type AttentionOptions } from "../layers/attention.ts";
import { DecoderBlock } from "../layers/block.ts";
import type { ForwardContext } from "../layers/context.ts";
import type { Linear } from "../layers/linear.ts";
import type { RmsNorm } from "../layers/norm.ts";
import { embedTokens, gatherRows, type ModelBuilder } from "./builder.ts";
import type { DecoderModel } from "./model.ts";

export async function buildLlama(builder: ModelBuilder): Promise<DecoderModel> {
  const { config } = builder;
  const blocks: DecoderBlock[] = [];
  for (let layer = 0; layer < config.layerCount; layer++) blocks.push(await buildBlock(builder, layer));
  return decoder(builder, blocks, await builder.norm("model.norm", config.hiddenSize));
}

async function buildBlock(builder: ModelBuilder, layer: number): Promise<DecoderBlock> {
  const { hiddenSize } = builder.config;
  const prefix = `model.layers.${layer}`;
  return new DecoderBlock({
    attention: new Attention(await attentionOptions(builder, layer)),
    mlp: await builder.mlp(`${prefix}.mlp`),
    ...(await builder.blockNorms(
      [`${prefix}.input_layernorm`, `${prefix}.post_attention_layernorm`],
      hiddenSize,
    )),
  });
}

/** Everything a layer's attention has in this family; other families add their norms. */
export async function attentionOptions(builder: ModelBuilder, layer: number): Promise<AttentionOptions> {
  const { config } = builder;
  const { queryHeads, kvHeads, headDim, hiddenSize, outputBias } = config;
  const { rope, slidingWindow } = config.layers[layer];
  const prefix = `model.layers.${layer}.self_attn`;
  const fused = config.architecture === "phi3" ? "qkv_proj" : undefined;
  const output = [{ name: `${prefix}.o_proj`, rows: hiddenSize }];
  return {
    attentionType: "decoder",
    slot: layer,
    heads: queryHeads,
    kvHeads,
    headDim,
    scale: config.attentionScale,
    projection: await builder.projection(prefix, fused),
    output: await builder.linear(output, queryHeads * headDim, outputBias),
    rotary: builder.rotary(rope),
    slidingWindow,
    softCap: config.attnSoftCap,
  };
}

/** A model of blocks in a row over one residual stream. */
export async function decoder(
  builder: ModelBuilder,
  blocks: readonly DecoderBlock[],
  finalNorm: RmsNorm,
): Promise<DecoderModel> {
  const { config } = builder;
  const { table, head } = await builder.vocabulary();
  return {
    config,
    attentions: blocks.map((block) => block.attention),
    embed: (context) =>
      embedTokens(context, { table, y: context.stream.whole(context), scale: config.embeddingScale }),
    passes: blocks.map((block) => (context: ForwardContext) => block.forward(context)),
    finalStates: (context) => {
      const normed = context.workspace.tensor("final-states", context.tokens, config.hiddenSize);
      finalNorm.forward(context, { x: context.stream.whole(context), y: normed });
      return normed;
    },
    head: (context) =>
      normedHead(context, { states: gatherRows(context, context.stream.whole(context)), finalNorm, head }),
  };
}

function normedHead(
  context: ForwardContext,
  { states, finalNorm, head }: { states: Tensor; finalNorm: RmsNorm; head: Linear },
): Tensor {
  const { rowSpace, rows } = context;
  const logits = rowSpace.tensor("logits", rows, head.outputs);
  head.forward(context, { x: states, norm: finalNorm, y: logits }, rowSpace);
  return logits;
}
