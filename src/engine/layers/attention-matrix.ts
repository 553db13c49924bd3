/**
 * Attention of many tokens on matrix units, in f16 between its kernels: projection; norms of heads, rotation and KV
 * write; attention with the gate; output projection into the residual. Attention itself goes by tiles of queries, which
 * share the keys they read; where every query has a sequence of its own there is nothing to share, and each goes alone,
 * turning its query and its key itself if no norm comes before that.
 */
import { attentionDecode } from "../../gpu/kernels/attention-decode.ts";
import type { AttentionOptions as AttentionInputs } from "../../gpu/kernels/attention.ts";
import { attentionPrefill, suitsAttentionPrefill } from "../../gpu/kernels/attention-prefill.ts";
import { kvWrite } from "../../gpu/kernels/kv-write.ts";
import { type HeadNorm, rotaryKv, type RotaryKvOptions } from "../../gpu/kernels/rotary-kv.ts";
import type { Tensor } from "../../gpu/tensor.ts";
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
  const { heads, kvHeads, headDim, slot, scale, projection, output } = options;
  const { tokensMeta, blockTables } = step.groups[context.layerGroups[slot]];
  const x = workspace.tensor("projected", tokens, projection.outputs, "f16");
  projection.forward(context, { x: io.x, norm: io.norm, y: x });
  const y = workspace.tensor("attended", tokens, heads * headDim, "f16");
  const inputs: Omit<AttentionInputs, "q"> = {
    kv: kv[slot],
    tokensMeta,
    sequences: step.sequences[io.kind],
    blockTables,
    y,
    heads,
    kvHeads,
    headDim,
    scale,
    window: options.slidingWindow ?? undefined,
    softCap: options.softCap ?? undefined,
  };
  const gate = options.gated ? { rows: x, offset: 0 } : undefined;
  const tiles = step.queryTiles;
  const projected = projectionOf(options, x);
  if (!traits.hasSubgroups || tiles.shape[0] !== tokens) {
    const q = turnedQueries(context, options, projected);
    recorder.add(attentionPrefill({ ...inputs, q, gate, tiles, tileTokens: step.queryTileTokens }));
  } else if (projected.norm || projected.cosSin.shape[1] % 16 !== 0 || kv[slot].dtype !== "f16") {
    const q = turnedQueries(context, options, projected);
    recorder.add(attentionDecode(traits, { ...inputs, q, gate, splits: 1 }));
  } else {
    recorder.add(
      attentionDecode(traits, {
        ...inputs,
        q: x,
        qOffset: projected.qOffset,
        gate,
        own: projected,
        splits: 1,
      }),
    );
  }
  output.forward(context, { x: y, y: io.y });
}

/** What is where in the rows x of the projection, and what is to be done to it. */
type Projection = Pick<RotaryKvOptions, "x" | "qOffset" | "kOffset" | "vOffset" | "norm" | "cosSin">;

function projectionOf(options: AttentionOptions, x: Tensor): Projection {
  const { heads, kvHeads, headDim, gated, rotary: cosSin } = options;
  if (!cosSin) throw new TypeError("Cannot run attention on matrix units: expected a rotary table, got none");
  const qOffset = gated ? heads * headDim : 0;
  const kOffset = qOffset + heads * headDim;
  return { x, qOffset, kOffset, vOffset: kOffset + kvHeads * headDim, norm: headNorm(options), cosSin };
}

/** Queries normed and turned; keys and values are put into the cache. */
function turnedQueries(context: ForwardContext, options: AttentionOptions, projected: Projection): Tensor {
  const { heads, kvHeads, headDim, slot } = options;
  const { traits, recorder, workspace, tokens, step, kv, layerGroups } = context;
  const { tokensMeta } = step.groups[layerGroups[slot]];
  const cache = kv[slot];
  const channels = heads * headDim;
  const isInt8 = cache.dtype === "i8";
  const q = workspace.tensor("queries", tokens, channels + (isInt8 ? kvHeads * headDim : 0), "f16");
  recorder.add(rotaryKv(traits, { ...projected, heads, kvHeads, headDim, tokensMeta, q, kv: cache }));
  if (isInt8) {
    const { x, vOffset } = projected;
    recorder.add(kvWrite(traits, { k: q, kOffset: channels, v: x, vOffset, tokensMeta, kv: cache }));
  }
  return q;
}

function headNorm({ queryNorm, keyNorm }: AttentionOptions): HeadNorm | undefined {
  const [query, key] = [queryNorm?.fused, keyNorm?.fused];
  if (!query?.weight || !key?.weight) return undefined;
  return { queryWeight: query.weight, keyWeight: key.weight, plusOne: query.plusOne, eps: query.eps };
}
