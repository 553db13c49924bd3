/**
 * Attention of a decoder layer over its paged KV slot: projections, rotary embedding, KV write, attention, output.
 *
 * Causal on its own. A layer whose prompt is read in both directions is a `PrefillPrefixLMAttention`.
 */
import { attention } from "../../gpu/kernels/attention.ts";
import { kvWrite } from "../../gpu/kernels/kv-write.ts";
import { rotary } from "../../gpu/kernels/rotary.ts";
import { sigmoidGate } from "../../gpu/kernels/sigmoid-gate.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { KvCacheSpec, KvDtype } from "../kv-cache/spec.ts";
import { forwardFused, fusesAttention } from "./attention-decode.ts";
import { forwardOnMatrixUnits, usesMatrixAttention } from "./attention-matrix.ts";
import type { BranchIo } from "./block.ts";
import type { ForwardContext, MetadataKind } from "./context.ts";
import type { Linear } from "./linear.ts";
import type { RmsNorm } from "./norm.ts";

/** The field's four kinds; this engine serves decoders. */
export type AttentionType = "decoder" | "encoder" | "encoder-only" | "encoder-decoder";

export interface AttentionOptions {
  attentionType: AttentionType;
  /** Which KV slot of the model this layer pass owns. */
  slot: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Factor of query times key. */
  scale: number;
  /** [rows, hidden]: gate (if gated), then query, key and value, each heads * headDim rows. */
  projection: Linear;
  /** [hidden, heads * headDim] */
  output: Linear;
  /** The first heads * headDim rows of the projection gate the attention's result by a sigmoid. */
  gated?: boolean;
  /** Per-head norms of queries and keys, before the rotation. */
  queryNorm?: RmsNorm;
  keyNorm?: RmsNorm;
  /** cos | sin, f32 [positions, rotaryDim]; left out, positions are not encoded. */
  rotary?: Tensor;
  slidingWindow?: number | null;
  softCap?: number | null;
}

export interface KvCacheOptions {
  blockSize: number;
  dtype: KvDtype;
}

/** What the runner tells attention of a sequence: P and the number of valid keys after this step's writes. */
export interface SequenceMetadata {
  prefixLength: number;
  contextLength: number;
}

/** Turns what is known of a sequence into the metadata that a layer's kernel is given. */
export interface MetadataBuilder {
  readonly kind: MetadataKind;
  build(sequence: SequenceMetadata): SequenceMetadata;
}

/** Ordinary attention is causal whatever prefix a sequence has. */
export const causalMetadata: MetadataBuilder = {
  kind: "causal",
  build: (sequence) => ({ ...sequence, prefixLength: 0 }),
};

export class Attention {
  readonly options: AttentionOptions;

  constructor(options: AttentionOptions) {
    this.options = options;
  }

  get metadataBuilder(): MetadataBuilder {
    return causalMetadata;
  }

  /** What this layer keeps of every token. */
  getKvCacheSpec({ blockSize, dtype }: KvCacheOptions): KvCacheSpec {
    const { kvHeads, headDim, slidingWindow } = this.options;
    const common = { blockSize, kvHeads, headDim, dtype };
    if (slidingWindow) return { kind: "sliding-window", slidingWindow, ...common };
    return { kind: "full-attention", nonCausal: false, ...common };
  }

  forward(context: ForwardContext, io: BranchIo): void {
    if (fusesAttention(context, this.options)) {
      forwardFused(context, this.options, { ...io, kind: this.metadataBuilder.kind });
      return;
    }
    if (usesMatrixAttention(context, this.options)) {
      forwardOnMatrixUnits(context, this.options, { ...io, kind: this.metadataBuilder.kind });
      return;
    }
    const { heads, headDim, scale, slidingWindow, softCap, gated, projection, output, slot } = this.options;
    const { workspace, tokens, recorder, traits, step, kv } = context;
    const { tokensMeta, blockTables } = step.groups[context.layerGroups[slot]];
    const projected = workspace.tensor("projected", tokens, projection.outputs);
    projection.forward(context, { x: io.x, norm: io.norm, y: projected });
    const { q, qOffset } = this.#writeKeys(context, projected);
    const attended = workspace.tensor("attended", tokens, heads * headDim);
    recorder.add(
      attention(traits, {
        q,
        qOffset,
        kv: kv[slot],
        tokensMeta,
        sequences: step.sequences[this.metadataBuilder.kind],
        blockTables,
        y: attended,
        heads,
        kvHeads: this.options.kvHeads,
        headDim,
        scale,
        window: slidingWindow ?? undefined,
        softCap: softCap ?? undefined,
      }),
    );
    if (gated) recorder.add(sigmoidGate(traits, { y: attended, gate: projected, gateOffset: 0 }));
    output.forward(context, { x: attended, y: io.y });
  }

  /** Norms and rotates queries and keys, stores keys and values; returns where the queries are. */
  #writeKeys(context: ForwardContext, projected: Tensor): { q: Tensor; qOffset: number } {
    const { heads, kvHeads, headDim, gated, slot } = this.options;
    const { recorder, traits, step, kv } = context;
    const { tokensMeta } = step.groups[context.layerGroups[slot]];
    const firstQuery = gated ? heads * headDim : 0;
    const firstValue = firstQuery + (heads + kvHeads) * headDim;
    const { states, offset } = this.#normed(context, projected, firstQuery);
    const table = this.options.rotary;
    if (table) {
      const turned = { offset, count: heads + kvHeads, channels: headDim };
      recorder.add(rotary(traits, { x: states, cosSin: table, tokensMeta, heads: turned }));
    }
    recorder.add(
      kvWrite(traits, {
        k: states,
        kOffset: offset + heads * headDim,
        v: projected,
        vOffset: firstValue,
        tokensMeta,
        kv: kv[slot],
      }),
    );
    return { q: states, qOffset: offset };
  }

  /** Queries and keys after their norms, side by side; without norms they stay where they are. */
  #normed(
    context: ForwardContext,
    projected: Tensor,
    firstQuery: number,
  ): { states: Tensor; offset: number } {
    const { heads, kvHeads, headDim: channels, queryNorm, keyNorm } = this.options;
    if (!queryNorm || !keyNorm) return { states: projected, offset: firstQuery };
    const states = context.workspace.tensor("queries-keys", context.tokens, (heads + kvHeads) * channels);
    const keyOffset = heads * channels;
    queryNorm.forward(context, {
      x: projected,
      y: states,
      heads: { count: heads, channels, xOffset: firstQuery, yOffset: 0 },
    });
    keyNorm.forward(context, {
      x: projected,
      y: states,
      heads: { count: kvHeads, channels, xOffset: firstQuery + keyOffset, yOffset: keyOffset },
    });
    return { states, offset: 0 };
  }
}
