/** Qwen 3: Llama with a norm over each head's query and key before the rotation. */
import { Attention } from "../layers/attention.ts";
import { DecoderBlock } from "../layers/block.ts";
import type { ModelBuilder } from "./builder.ts";
import { attentionOptions, decoder } from "./llama.ts";
import type { DecoderModel } from "./model.ts";

export async function buildQwen3(builder: ModelBuilder): Promise<DecoderModel> {
  const { layerCount, hiddenSize } = builder.config;
  const blocks: DecoderBlock[] = [];
  for (let layer = 0; layer < layerCount; layer++) blocks.push(await buildBlock(builder, layer));
  return decoder(builder, blocks, await builder.norm("model.norm", hiddenSize));
}

async function buildBlock(builder: ModelBuilder, layer: number): Promise<DecoderBlock> {
  const { hiddenSize, headDim } = builder.config;
  const prefix = `model.layers.${layer}`;
  return new DecoderBlock({
    attention: new Attention({
      ...(await attentionOptions(builder, layer)),
      queryNorm: await builder.norm(`${prefix}.self_attn.q_norm`, headDim),
      keyNorm: await builder.norm(`${prefix}.self_attn.k_norm`, headDim),
    }),
    mlp: await builder.mlp(`${prefix}.mlp`),
    attentionNorm: await builder.norm(`${prefix}.input_layernorm`, hiddenSize),
    mlpNorm: await builder.norm(`${prefix}.post_attention_layernorm`, hiddenSize),
  });
}
