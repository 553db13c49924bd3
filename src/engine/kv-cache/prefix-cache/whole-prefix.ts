/**
 * Prefix cache of a Prefix LM: all of a prefix is shared, or nothing.
 *
 * Every key and value of a bidirectional prefix depends on all of its tokens, so an entry is known by all prefix ids
 * and by P, and is worthless once one of its blocks is gone. In its last block an entry owns the prefix's slots only:
 * who holds that block alone may write behind them in place, anyone else gets a copy first (`BlockPool.isWritable`).
 * P = 0 is a causal request, of which this cache knows nothing; P = 1 would save nothing.
 */
import { createHash } from "node:crypto";
import { nullBlock } from "../block-pool.ts";
import { blocksFor, firstSeenBlock, type SequenceKv } from "../sequence-kv.ts";
import {
  noHit,
  type PrefixCache,
  type PrefixCacheOptions,
  type PrefixHit,
  type PrefixQuery,
} from "./prefix-cache.ts";

/** Shortest prefix that is worth an entry. */
const prefixLengthMin = 2;

interface Entry {
  key: string;
  prefixLength: number;
  /** By group; the null block where no window reaches any more. */
  tables: readonly (readonly number[])[];
}

export class WholePrefixCache implements PrefixCache {
  readonly #options: PrefixCacheOptions;
  readonly #entries = new Map<string, Entry>();
  /** Sequences whose prefix was found, or offered, already. */
  readonly #known = new WeakSet<SequenceKv>();

  constructor(options: PrefixCacheOptions) {
    this.#options = options;
  }

  adopt(kv: SequenceKv, query: PrefixQuery): PrefixHit {
    if (query.prefixLength < prefixLengthMin) return noHit;
    const entry = this.#entries.get(this.#key(query));
    if (!entry) return noHit;
    this.#known.add(kv);
    entry.tables.forEach((blocks, group) => {
      for (const block of blocks) if (block !== nullBlock) this.#options.pools[group].share(block);
      kv.tables[group].push(...blocks);
    });
    // With tokens behind the prefix, it is they whose logits are wanted.
    const isLastRecomputed = query.ids.length === query.prefixLength;
    return { kind: "whole", tokens: query.prefixLength - (isLastRecomputed ? 1 : 0), isLastRecomputed };
  }

  commit(kv: SequenceKv, query: PrefixQuery, computed: number): void {
    const { prefixLength } = query;
    if (prefixLength < prefixLengthMin || computed < prefixLength || this.#known.has(kv)) return;
    this.#known.add(kv);
    const key = this.#key(query);
    if (this.#entries.has(key)) return;
    const tables = kv.tables.map((table, group) => this.#prefixTable(table, group, prefixLength));
    if (tables.some((table) => table === null)) return;
    this.#insert({ key, prefixLength, tables: tables.filter((table) => table !== null) });
  }

  forget(kv: SequenceKv): void {
    this.#known.delete(kv);
  }

  audit(): void {
    const kept: number[][] = this.#options.pools.map(() => []);
    for (const entry of this.#entries.values()) {
      this.#eachBlock(entry, (block, group) => kept[group].push(block));
    }
    this.#options.pools.forEach((pool, group) => pool.auditCached(kept[group]));
  }

  #key({ ids, prefixLength, salt }: PrefixQuery): string {
    if (ids.length < prefixLength) {
      throw new Error(`Cannot look up a prefix of ${prefixLength} tokens: got ${ids.length} ids`);
    }
    return createHash("sha256")
      .update(JSON.stringify([this.#options.model, salt, prefixLength]))
      .update(Uint32Array.from(ids.slice(0, prefixLength)))
      .digest("base64");
  }

  /** The blocks that the last prefix token and all later ones see, or null when one was given back. */
  #prefixTable(table: readonly number[], group: number, prefixLength: number): number[] | null {
    const { groups, blockSize } = this.#options;
    const first = firstSeenBlock(groups[group].window, prefixLength - 1, blockSize);
    const blocks = table.slice(0, blocksFor(prefixLength, blockSize));
    if (blocks.some((block, index) => index >= first && block === nullBlock)) return null;
    return blocks.map((block, index) => (index < first ? nullBlock : block));
  }

  #insert(entry: Entry): void {
    const { blockSize, pools } = this.#options;
    this.#entries.set(entry.key, entry);
    const evict = () => {
      this.#entries.delete(entry.key);
      this.#eachBlock(entry, (block, group) => pools[group].uncache(block));
    };
    this.#eachBlock(entry, (block, group, index) => {
      pools[group].cache(block, {
        slots: Math.min(blockSize, entry.prefixLength - index * blockSize),
        evict,
      });
    });
  }

  #eachBlock({ tables }: Entry, visit: (block: number, group: number, index: number) => void): void {
    tables.forEach((blocks, group) => {
      blocks.forEach((block, index) => {
        if (block !== nullBlock) visit(block, group, index);
      });
    });
  }
}
