/** A whole block for one token in a single kernel, where the device is known to run all of its workgroups at once. */
import { decodePass, handoffWords, type PassCandidate } from "../../gpu/kernels/decode-pass.ts";
import type { DecoderBlockOptions } from "./block.ts";
import type { ForwardContext } from "./context.ts";
import { isFused } from "./fusion.ts";

/** Runs the block on the context's residual stream, or gives false if it is not one for `decodePass` in this step. */
export function forwardInOne(context: ForwardContext, block: DecoderBlockOptions): boolean {
  const { traits, tokens, recorder, workspace, step, kv } = context;
  const { slot, projection } = block.attention.options;
  if (tokens > 1 || !traits.residentWorkgroups || !isFused(context, projection.weight, tokens)) return false;
  const layer = candidate(block);
  if (!layer) return false;
  const words = handoffWords(traits, { ...layer, kv: kv[slot] });
  if (words === undefined) return false;
  const { tokensMeta, blockTables } = step.groups[context.layerGroups[slot]];
  recorder.add(
    decodePass(traits, {
      ...layer,
      x: context.stream.whole(context),
      tokensMeta,
      sequences: step.sequences[block.attention.metadataBuilder.kind],
      blockTables,
      kv: kv[slot],
      handoff: workspace.words("handoff", words),
    }),
  );
  return true;
}

/** What the kernel takes of a block; undefined for norms of heads or of what branches give, and for biases. */
function candidate({ attention, mlp, ...block }: DecoderBlockOptions): Omit<PassCandidate, "kv"> | undefined {
  const { projection, output, queryNorm, rotary, softCap, slidingWindow } = attention.options;
  const { gateUp, down, activation } = mlp.options;
  if (queryNorm || block.afterAttentionNorm || block.afterMlpNorm) return undefined;
  if ([projection, output, gateUp, down].some(({ bias }) => bias)) return undefined;
  const { heads, kvHeads, headDim, gated, scale } = attention.options;
  return {
    qkv: projection.weight,
    output: output.weight,
    gateUp: gateUp.weight,
    down: down.weight,
    norms: [block.attentionNorm.fused, block.mlpNorm.fused],
    activation,
    heads,
    kvHeads,
    headDim,
    gated,
    cosSin: rotary,
    scale,
    window: slidingWindow ?? undefined,
    softCap: softCap ?? undefined,
  };
}
