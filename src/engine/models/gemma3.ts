/**
 * Gemma 3 (text): norms before and after each branch, all times 1 + weight; norms of queries and keys; local layers
 * with a window and a rotary base of their own; embeddings scaled by the square root of their size.
 */
import { Attention } from "../layers/attention.ts";
import { DecoderBlock } from "../layers/block.ts";
import type { ModelBuilder } from "./builder.ts";
import { attentionOptions, decoder } from "./llama.ts";
import type { DecoderModel } from "./model.ts";

export async function buildGemma3(builder: ModelBuilder): Promise<DecoderModel> {
  const { layerCount, hiddenSize } = builder.config;
  const blocks: DecoderBlock[] = [];
  for (let layer = 0; layer < layerCount; layer++) blocks.push(await buildBlock(builder, layer));
  return decoder(builder, blocks, await builder.norm("model.norm", hiddenSize, true));
}

async function buildBlock(builder: ModelBuilder, layer: number): Promise<DecoderBlock> {
  const { hiddenSize, headDim } = builder.config;
  const prefix = `model.layers.${layer}`;
  const norm = (name: string, size = hiddenSize) => builder.norm(`${prefix}.${name}`, size, true);
  return new DecoderBlock({
    attention: new Attention({
      ...(await attentionOptions(builder, layer)),
      queryNorm: await norm("self_attn.q_norm", headDim),
      keyNorm: await norm("self_attn.k_norm", headDim),
    }),
    mlp: await builder.mlp(`${prefix}.mlp`),
    attentionNorm: await norm("input_layernorm"),
    afterAttentionNorm: await norm("post_attention_layernorm"),
    mlpNorm: await norm("pre_feedforward_layernorm"),
    afterMlpNorm: await norm("post_feedforward_layernorm"),
  });
}
