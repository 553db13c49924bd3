/**
 * Attention of many tokens on matrix units, in f16 between its kernels: projection; norms of heads, rotation and KV
 * write; attention by tiles of queries with the gate; output projection into the residual.
 */
import { attentionPrefill, suitsAttentionPrefill } from "../../gpu/kernels/attention-prefill.ts";
import { type HeadNorm, rotaryKv } from "../../gpu/kernels/rotary-kv.ts";
import type { AttentionOptions } from "./attention.ts";
import type { BranchIo } from "./block.ts";
import type { ForwardContext, MetadataKind } from "./context.ts";
import { usesMatrixUnits } from "./fusion.ts";

/** Whether a layer can be run so in this step. */
export function usesMatrixAttention(context: ForwardContext, options: AttentionOptions): boolean {
  const { slot, headDim, rotary, projection, output, queryNorm, keyNorm } = options;
  return (
    [projection, output].every(({ weight }) => usesMatrixUnits(context, weight, context.tokens)) &&
    suitsAttentionPrefill(context.traits, context.kv[slot], headDim) &&
    rotary !== undefined &&
    rotary.shape[1] % 8 === 0 &&
    (queryNorm === undefined) === (keyNorm === undefined)
  );
}

/** `kind` says which metadata the layer reads. */
export function forwardOnMatrixUnits(
  context: ForwardContext,
  options: AttentionOptions,
  io: BranchIo & { kind: MetadataKind },
): void {
  const { workspace, tokens, recorder, traits, step, kv } = context;
  const { heads, kvHeads, headDim, gated, slot, scale, projection, output, rotary } = options;
  if (!rotary) throw new TypeError("Cannot run attention on matrix units: expected a rotary table, got none");
  const { tokensMeta, blockTables } = step.groups[context.layerGroups[slot]];
  const shape = { heads, kvHeads, headDim };
  const channels = heads * headDim;
  const projected = workspace.tensor("projected", tokens, projection.outputs, "f16");
  projection.forward(context, { x: io.x, norm: io.norm, y: projected });
  const qOffset = gated ? channels : 0;
  const kOffset = qOffset + channels;
  const q = workspace.tensor("queries", tokens, channels, "f16");
  recorder.add(
    rotaryKv(traits, {
      ...shape,
      x: projected,
      qOffset,
      kOffset,
      vOffset: kOffset + kvHeads * headDim,
      norm: headNorm(options),
      cosSin: rotary,
      tokensMeta,
      q,
      kv: kv[slot],
    }),
  );
  const attended = workspace.tensor("attended", tokens, channels, "f16");
  recorder.add(
    attentionPrefill({
      ...shape,
      q,
      kv: kv[slot],
      tokensMeta,
      sequences: step.sequences[io.kind],
      blockTables,
      tiles: step.queryTiles,
      y: attended,
      scale,
      window: options.slidingWindow ?? undefined,
      softCap: options.softCap ?? undefined,
      gate: gated ? { rows: projected, offset: 0 } : undefined,
    }),
  );
  output.forward(context, { x: attended, y: io.y, accumulate: io.accumulate });
}

function headNorm({ queryNorm, keyNorm }: AttentionOptions): HeadNorm | undefined {
  const [query, key] = [queryNorm?.fused, keyNorm?.fused];
  if (!query?.weight || !key?.weight) return undefined;
  return { queryWeight: query.weight, keyWeight: key.weight, plusOne: query.plusOne, eps: query.eps };
}
