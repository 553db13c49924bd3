/** What the two prefix caches have in common: a question, an answer, and who may ask. */
import type { KvGroup } from "../aggregate.ts";
import type { BlockPool } from "../block-pool.ts";
import type { SequenceKv } from "../sequence-kv.ts";

export interface PrefixQuery {
  /** Ids of the prompt, and of the output as far as it is known. */
  ids: readonly number[];
  /** P; fixed for the sequence's life. */
  prefixLength: number;
  /** Only requests of the same salt share anything. */
  salt: string;
}

/** What a look-up found. */
export interface PrefixHit {
  kind: "none" | "blocks" | "whole";
  /** Tokens whose KV need not be computed: the first token to run is the one at this position. */
  tokens: number;
  /**
   * The first token to run is the last one of a whole prefix, whose KV is there already: it is run for its logits
   * alone, and its KV write must go to the null block. Only where nothing is known behind the prefix.
   */
  isLastRecomputed: boolean;
}

export const noHit: PrefixHit = { kind: "none", tokens: 0, isLastRecomputed: false };

export interface PrefixCacheOptions {
  /** By group, like `pools`. */
  groups: readonly KvGroup[];
  pools: readonly BlockPool[];
  blockSize: number;
  /** Name of the model, with whatever else changes its keys and values. */
  model: string;
}

export interface PrefixCache {
  /** Fills the empty tables of `kv` with what is known of the query, taking references. */
  adopt(kv: SequenceKv, query: PrefixQuery): PrefixHit;
  /** Remembers what the tokens at positions < `computed` left in the blocks of `kv`. */
  commit(kv: SequenceKv, query: PrefixQuery, computed: number): void;
  /** `kv` is about to be used for something else. */
  forget(kv: SequenceKv): void;
  /** Throws unless the pools keep exactly what is remembered. */
  audit(): void;
}
