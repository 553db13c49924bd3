/**
 * What a layer needs to remember: plain data, so that it can cross a thread boundary and be merged by the scheduler,
 * which decides from it which cuts of a prefill are allowed. Knows no device.
 */

/** i8 has a float32 factor for the key and one for the value of every head of a token. */
export type KvDtype = "f32" | "f16" | "bf16" | "i8";

interface SpecBase {
  /** Tokens in a block. */
  blockSize: number;
  kvHeads: number;
  headDim: number;
  dtype: KvDtype;
}

/** The layer keeps keys and values of all tokens. */
export interface FullAttentionSpec extends SpecBase {
  kind: "full-attention";
  /** Prompt tokens see later prompt tokens: the prompt can be cut along layers but not along tokens. */
  nonCausal: boolean;
  /** The layer looks at the last so many tokens only, yet keeps all: it shares a block table with layers that see all. */
  slidingWindow?: number;
}

/** The layer looks at the last `slidingWindow` tokens only. */
export interface SlidingWindowSpec extends SpecBase {
  kind: "sliding-window";
  slidingWindow: number;
}

export type KvCacheSpec = FullAttentionSpec | SlidingWindowSpec;

const dtypeBytes: Record<KvDtype, number> = { f32: 4, f16: 2, bf16: 2, i8: 1 };
const scaleBytes: Record<KvDtype, number> = { f32: 0, f16: 0, bf16: 0, i8: 4 };

/** Bytes of one block of one layer, keys and values together. */
export function bytesPerBlock({ blockSize, kvHeads, headDim, dtype }: KvCacheSpec): number {
  return 2 * blockSize * kvHeads * (headDim * dtypeBytes[dtype] + scaleBytes[dtype]);
}
