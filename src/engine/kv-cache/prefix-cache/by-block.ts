/**
 * Prefix cache of a causal model: equal leading blocks are shared.
 *
 * A block's key is a hash of its tokens and of the key before it, so it stands for everything up to its end. Only full
 * blocks are kept. A hit leaves at least the last known token to be computed, for its logits. A group with a sliding
 * window needs no blocks but those that the first computed token sees. The idea of chained hashes is vLLM's.
 */
import { createHash } from "node:crypto";
import { nullBlock } from "../block-pool.ts";
import { firstSeenBlock, type SequenceKv } from "../sequence-kv.ts";
import {
  noHit,
  type PrefixCache,
  type PrefixCacheOptions,
  type PrefixHit,
  type PrefixQuery,
} from "./prefix-cache.ts";

/** What is known of a sequence's blocks, so that a token is hashed once. */
interface Chain {
  keys: string[];
  /** Leading blocks that need not be looked at again. */
  committed: number;
}

export class BlockPrefixCache implements PrefixCache {
  readonly #options: PrefixCacheOptions;
  /** By group. */
  readonly #blockOfKey: readonly Map<string, number>[];
  readonly #chains = new WeakMap<SequenceKv, Chain>();

  constructor(options: PrefixCacheOptions) {
    this.#options = options;
    this.#blockOfKey = options.groups.map(() => new Map<string, number>());
  }

  adopt(kv: SequenceKv, query: PrefixQuery): PrefixHit {
    const { blockSize } = this.#options;
    const keys = this.#extend([], query, Math.floor((query.ids.length - 1) / blockSize));
    const committed = this.#longestHit(keys);
    this.#chains.set(kv, { keys, committed });
    if (committed === 0) return noHit;
    kv.tables.forEach((table, group) => this.#share(table, group, keys.slice(0, committed)));
    return { kind: "blocks", tokens: committed * blockSize, isLastRecomputed: false };
  }

  commit(kv: SequenceKv, query: PrefixQuery, computed: number): void {
    const chain = this.#chains.get(kv) ?? { keys: [], committed: 0 };
    this.#chains.set(kv, chain);
    // A token that was sampled but not read yet has its KV in place, but no id to be hashed.
    const full = Math.floor(Math.min(computed, query.ids.length) / this.#options.blockSize);
    this.#extend(chain.keys, query, full);
    for (; chain.committed < full; chain.committed++) {
      const key = chain.keys[chain.committed];
      kv.tables.forEach((table, group) => this.#insert(group, key, table[chain.committed]));
    }
  }

  forget(kv: SequenceKv): void {
    this.#chains.delete(kv);
  }

  audit(): void {
    this.#blockOfKey.forEach((blocks, group) => {
      this.#options.pools[group].auditCached([...blocks.values()]);
    });
  }

  /** Appends the keys of the blocks up to `count`. */
  #extend(keys: string[], { ids, salt }: PrefixQuery, count: number): string[] {
    const { blockSize, model } = this.#options;
    for (let index = keys.length; index < count; index++) {
      const parent = keys.at(-1) ?? JSON.stringify([model, salt]);
      const tokens = Uint32Array.from(ids.slice(index * blockSize, (index + 1) * blockSize));
      keys.push(createHash("sha256").update(parent).update(tokens).digest("base64"));
    }
    return keys;
  }

  /** The most leading blocks such that every group has those of them that the next token sees. */
  #longestHit(keys: readonly string[]): number {
    const runs = this.#blockOfKey.map((blocks) => cachedRuns(keys, blocks));
    for (let count = keys.length; count > 0; count--) {
      if (runs.every((run, group) => run[count - 1] >= count - this.#firstNeeded(group, count))) return count;
    }
    return 0;
  }

  #firstNeeded(group: number, count: number): number {
    const { groups, blockSize } = this.#options;
    return firstSeenBlock(groups[group].window, count * blockSize, blockSize);
  }

  #share(table: number[], group: number, keys: readonly string[]): void {
    const first = this.#firstNeeded(group, keys.length);
    keys.forEach((key, index) => {
      const block = index < first ? nullBlock : (this.#blockOfKey[group].get(key) as number);
      if (block !== nullBlock) this.#options.pools[group].share(block);
      table.push(block);
    });
  }

  #insert(group: number, key: string, block: number): void {
    const blocks = this.#blockOfKey[group];
    if (block === nullBlock || blocks.has(key)) return;
    const pool = this.#options.pools[group];
    blocks.set(key, block);
    const evict = () => {
      blocks.delete(key);
      pool.uncache(block);
    };
    pool.cache(block, { slots: this.#options.blockSize, evict });
  }
}

/** For each key, how many keys in a row, ending with it, are cached. */
function cachedRuns(keys: readonly string[], blocks: ReadonlyMap<string, number>): number[] {
  let run = 0;
  return keys.map((key) => (run = blocks.has(key) ? run + 1 : 0));
}
