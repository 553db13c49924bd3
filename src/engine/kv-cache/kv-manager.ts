import type { KvPolicy } from "./aggregate.ts";

/** Per group, the block table of a sequence: physical block of each logical block; 0 (null block) where given back. */
export interface SequenceKv {
  readonly tables: number[][];
}

/** Copies are run in their order: a block may be read by one and then written by a later one. */
export interface BlockCopy {
  group: number;
  from: number;
  to: number;
}

export interface PrefixQuery {
  /** Ids of the prompt and of what is known of the output. */
  ids: readonly number[];
  prefixLength: number;
  salt: string;
}

export interface PrefixHit {
  kind: "none" | "blocks" | "whole";
  /** Tokens whose KV need not be computed. */
  tokens: number;
  /** The first token to compute is the prefix's last one, for its logits only: its KV must go to the null block. */
  isLastRecomputed: boolean;
}

export interface KvManagerOptions {
  policy: KvPolicy;
  blockCounts: readonly number[];
  blockSize: number;
  model: string;
  stepTokensMax?: number;
}

export interface KvStats {
  groups: { blocks: number; free: number; cached: number; used: number }[];
  hits: number;
  misses: number;
  evictions: number;
}

/* eslint-disable @typescript-eslint/no-unused-vars */
export class KvManager {
  constructor(_options: KvManagerOptions) {}
  newSequence(): SequenceKv {
    throw new Error("Cannot use the KV manager yet");
  }
  canEverHold(_tokens: number): boolean {
    throw new Error("Cannot use the KV manager yet");
  }
  adopt(_kv: SequenceKv, _query: PrefixQuery): PrefixHit {
    throw new Error("Cannot use the KV manager yet");
  }
  grow(_kv: SequenceKv, _range: { start: number; end: number }): BlockCopy[] | null {
    throw new Error("Cannot use the KV manager yet");
  }
  commit(_kv: SequenceKv, _query: PrefixQuery, _computed: number): void {}
  trim(_kv: SequenceKv, _computed: number): void {}
  fork(_kv: SequenceKv): SequenceKv {
    throw new Error("Cannot use the KV manager yet");
  }
  release(_kv: SequenceKv): void {}
  audit(_sequences: readonly SequenceKv[]): void {}
  stats(): KvStats {
    throw new Error("Cannot use the KV manager yet");
  }
}
