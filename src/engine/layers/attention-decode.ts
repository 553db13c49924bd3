/**
 * Attention of few tokens on a GPU in three kernels: norm, projection, rotation and KV write (for an i8 cache, a fourth);
 * attention split over its keys; combination of the shares, gate, output projection and residual.
 */
import { attentionDecode, chooseSplits, sharesRow } from "../../gpu/kernels/attention-decode.ts";
import { combineLinear } from "../../gpu/kernels/combine-linear.ts";
import { kvWrite } from "../../gpu/kernels/kv-write.ts";
import { qkvDecode } from "../../gpu/kernels/qkv-decode.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { AttentionOptions } from "./attention.ts";
import type { BranchIo } from "./block.ts";
import type { ForwardContext, MetadataKind } from "./context.ts";
import { isFused } from "./fusion.ts";
import { tensorOf } from "./linear.ts";
import { ResidualStream } from "./residual-stream.ts";

/** Formats of keys and values that these kernels read and write. */
const kvFormats = ["f32", "f16", "bf16", "i8"];

/** Whether a layer can be run so in this step; norms of single heads are not fused. */
export function fusesAttention(context: ForwardContext, options: AttentionOptions): boolean {
  const { slot, queryNorm, headDim, projection } = options;
  return (
    isFused(context, projection.weight, context.tokens) &&
    !queryNorm &&
    headDim % 8 === 0 &&
    headDim <= 256 &&
    kvFormats.includes(context.kv[slot].dtype)
  );
}

/** `kind` says which metadata the layer reads. */
export function forwardFused(
  context: ForwardContext,
  options: AttentionOptions,
  io: BranchIo & { kind: MetadataKind },
): void {
  const { workspace, tokens, recorder, traits, step, kv } = context;
  const { heads, kvHeads, headDim, gated, slot, scale, output } = options;
  const { tokensMeta, blockTables } = step.groups[context.layerGroups[slot]];
  const shape = { heads, kvHeads, headDim };
  const channels = heads * headDim;
  const projected = projectForDecode(context, options, io);
  const splits = chooseSplits({ ...shape, tokens, keys: context.keysBound });
  const row = splits > 1 ? sharesRow(heads, splits, headDim) : channels;
  const attended = workspace.tensor("attended", tokens, row);
  recorder.add(
    attentionDecode(traits, {
      ...shape,
      q: projected,
      qOffset: gated ? channels : 0,
      gate: gated && splits === 1 ? { rows: projected, offset: 0 } : undefined,
      kv: kv[slot],
      tokensMeta,
      sequences: step.sequences[io.kind],
      blockTables,
      y: attended,
      scale,
      window: options.slidingWindow ?? undefined,
      softCap: options.softCap ?? undefined,
      splits,
    }),
  );
  if (splits === 1) {
    output.forward(context, { x: attended, y: io.y });
    return;
  }
  const { weight, bias } = output;
  const gate = gated ? { tensor: projected, offset: 0 } : undefined;
  recorder.add(
    combineLinear(traits, {
      shares: attended,
      splits,
      headDim,
      weight,
      bias,
      gate,
      y: tensorOf(context, io.y),
      accumulate: io.y instanceof ResidualStream,
    }),
  );
}

/** Gates (if gated), queries and, where the cache is of i8, keys and values of each row; the latter are in the cache. */
function projectForDecode(context: ForwardContext, options: AttentionOptions, io: BranchIo): Tensor {
  const { workspace, tokens, recorder, traits, step, kv } = context;
  const { heads, kvHeads, headDim, gated, slot, projection } = options;
  const { tokensMeta } = step.groups[context.layerGroups[slot]];
  const cache = kv[slot];
  const keys = (gated ? 2 : 1) * heads * headDim;
  const isInt8 = cache.dtype === "i8";
  const projected = workspace.tensor("gate-query", tokens, isInt8 ? projection.outputs : keys);
  recorder.add(
    qkvDecode(traits, {
      heads,
      kvHeads,
      headDim,
      x: io.x.whole(context),
      norm: io.norm.fused,
      weight: projection.weight,
      bias: projection.bias,
      cosSin: options.rotary,
      tokensMeta,
      y: projected,
      kv: cache,
      gated,
    }),
  );
  if (isInt8) {
    const values = keys + kvHeads * headDim;
    const columns = { k: projected, kOffset: keys, v: projected, vOffset: values };
    recorder.add(kvWrite(traits, { ...columns, tokensMeta, kv: cache }));
  }
  return projected;
}
