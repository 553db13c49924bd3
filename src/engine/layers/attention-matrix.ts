/**
 * Attention of many tokens on matrix units, in f16 between its kernels: projection; norms of heads, rotation and KV
 * write; attention with the gate; output projection into the residual. Attention itself goes by tiles of queries, which
 * share the keys they read; where every query has a sequence of its own there is nothing to share, and each goes alone.
 */
import { attentionDecode } from "../../gpu/kernels/attention-decode.ts";
import type { AttentionOptions as AttentionInputs } from "../../gpu/kernels/attention.ts";
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
  const inputs: AttentionInputs = {
    ...shape,
    q,
    kv: kv[slot],
    tokensMeta,
    sequences: step.sequences[io.kind],
    blockTables,
    y: attended,
    scale,
    window: options.slidingWindow ?? undefined,
    softCap: options.softCap ?? undefined,
  };
  const gate = gated ? { rows: projected, offset: 0 } : undefined;
  const tiles = step.queryTiles;
  const isDecode = traits.hasSubgroups && tiles.shape[0] === tokens;
  recorder.add(
    isDecode
      ? attentionDecode(traits, { ...inputs, gate, splits: 1 })
      : attentionPrefill({ ...inputs, gate, tiles }),
  );
  output.forward(context, { x: attended, y: io.y });
}

function headNorm({ queryNorm, keyNorm }: AttentionOptions): HeadNorm | undefined {
  const [query, key] = [queryNorm?.fused, keyNorm?.fused];
  if (!query?.weight || !key?.weight) return undefined;
  return { queryWeight: query.weight, keyWeight: key.weight, plusOne: query.plusOne, eps: query.eps };
}
