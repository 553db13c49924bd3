/**
 * Which blocks hold which sequence's keys and values, over all groups of layers, and which of them are shared.
 *
 * Everything here is decided when a step is planned, ahead of its running: that is sound because steps run in the
 * order of their planning. So a block that is given back, or cached, is what earlier steps will have made of it by the
 * time a later step touches it. Does not know what a step is, nor who deserves blocks; that is the scheduler's.
 */
import type { KvPolicy } from "./aggregate.ts";
import { BlockPool, nullBlock, type PoolStats } from "./block-pool.ts";
import { BlockPrefixCache } from "./prefix-cache/by-block.ts";
import { noHit, type PrefixCache, type PrefixHit, type PrefixQuery } from "./prefix-cache/prefix-cache.ts";
import { WholePrefixCache } from "./prefix-cache/whole-prefix.ts";
import { blocksFor, firstSeenBlock, type SequenceKv } from "./sequence-kv.ts";

export type { PrefixHit, PrefixQuery } from "./prefix-cache/prefix-cache.ts";
export type { SequenceKv } from "./sequence-kv.ts";

/** To be run in the order given: a block may be read by one copy and then written by a later one. */
export interface BlockCopy {
  group: number;
  from: number;
  to: number;
}

/** Positions that are about to be written: start <= position < end. */
export interface PositionRange {
  start: number;
  end: number;
}

export interface KvManagerOptions {
  policy: KvPolicy;
  /** By group, the null block included. */
  blockCounts: readonly number[];
  blockSize: number;
  model: string;
  /** Most tokens that one `grow` adds to a sequence; with it, a sliding window needs few blocks for any length. */
  stepTokensMax?: number;
}

export interface KvStats {
  groups: Omit<PoolStats, "evictions">[];
  /** Look-ups that found something, and that did not. */
  hits: number;
  misses: number;
  /** Blocks whose cached content was given up for lack of free ones. */
  evictions: number;
}

/** What one group must do for a `grow`. */
interface Growth {
  /** Blocks to append. */
  added: number;
  /** Logical blocks to be replaced by copies. */
  copied: number[];
}

export class KvManager {
  readonly #options: KvManagerOptions;
  readonly #pools: readonly BlockPool[];
  readonly #cache: PrefixCache | null;
  #hits = 0;
  #misses = 0;

  constructor(options: KvManagerOptions) {
    const { groups } = options.policy;
    if (options.blockCounts.length !== groups.length) {
      throw new Error(
        `Cannot manage KV blocks: expected counts of ${groups.length} groups, got ${options.blockCounts.length}`,
      );
    }
    this.#options = options;
    this.#pools = options.blockCounts.map((count) => new BlockPool(count));
    this.#cache = makeCache(options, this.#pools);
  }

  /** A sequence without any block; so is one that was released. */
  newSequence(): SequenceKv {
    return { tables: this.#pools.map(() => []) };
  }

  /** Whether a sequence of so many tokens fits, were it alone: `grow` then succeeds once the others are released. */
  canEverHold(tokens: number): boolean {
    return this.#pools.every((pool, group) => this.#blocksAtMost(group, tokens) <= pool.stats().blocks);
  }

  /**
   * Looks the query up and makes the empty `kv` share what is found. Give it back with `release` if the sequence is
   * not scheduled after all. A hit on what was committed for the step being planned is not ready to be copied: call
   * `commit` after the last `adopt` and `grow` of a step.
   */
  adopt(kv: SequenceKv, query: PrefixQuery): PrefixHit {
    if (kv.tables.some((table) => table.length > 0)) {
      throw new Error("Cannot adopt a prefix: expected a sequence without blocks");
    }
    if (!this.#cache) return noHit;
    const hit = this.#cache.adopt(kv, query);
    if (hit.kind === "none") this.#misses++;
    else this.#hits++;
    return hit;
  }

  /**
   * Makes positions start <= p < end writable by this sequence alone: appends blocks, evicting cached ones as needed,
   * and replaces shared blocks by copies. Returns the copies, to be run before the step's writes; or null, changing
   * nothing, when blocks are short. A token recomputed for its logits alone is not written and not in the range.
   */
  grow(kv: SequenceKv, range: PositionRange): BlockCopy[] | null {
    const growths = kv.tables.map((table, group) => this.#growth(table, group, range));
    const isShort = growths.some(
      ({ added, copied }, group) => added + copied.length > this.#pools[group].availableCount,
    );
    if (isShort) return null;
    return growths.flatMap((growth, group) => this.#apply(kv.tables[group], group, growth));
  }

  /**
   * Tells that the tokens at positions < `computed` are written once the steps planned so far have run, through all
   * layers: they can be found from now on. Call it before `trim`, which takes away what a cache would keep.
   */
  commit(kv: SequenceKv, query: PrefixQuery, computed: number): void {
    const held = kv.tables[0].length * this.#options.blockSize;
    if (computed > held) {
      throw new Error(`Cannot commit ${computed} tokens: the sequence has blocks for ${held}`);
    }
    this.#cache?.commit(kv, query, computed);
  }

  /** Gives back the blocks that no query at position `computed` or later sees. */
  trim(kv: SequenceKv, computed: number): void {
    const { policy, blockSize } = this.#options;
    policy.groups.forEach(({ window }, group) => {
      const table = kv.tables[group];
      const end = Math.min(table.length, firstSeenBlock(window, computed, blockSize));
      // What was given back before is the front of the table.
      for (let index = end - 1; index >= 0 && table[index] !== nullBlock; index--) {
        this.#pools[group].release([table[index]]);
        table[index] = nullBlock;
      }
    });
  }

  /** A second sequence with the same contents; all blocks are shared until one of the two writes. */
  fork(kv: SequenceKv): SequenceKv {
    const copy = { tables: kv.tables.map((table) => [...table]) };
    copy.tables.forEach((table, group) => {
      for (const block of held(table)) this.#pools[group].share(block);
    });
    return copy;
  }

  /** Gives all blocks back; what is cached of them stays as long as nobody needs the room. */
  release(kv: SequenceKv): void {
    kv.tables.forEach((table, group) => {
      // Last blocks first: a block is worth nothing to the cache without those before it, so those stay longer.
      this.#pools[group].release(held(table).reverse());
      table.length = 0;
    });
    this.#cache?.forget(kv);
  }

  /** Throws unless every block of every pool is free, cached, or held exactly as often as these sequences hold it. */
  audit(sequences: readonly SequenceKv[]): void {
    for (const { tables } of sequences) {
      if (tables.some((table) => table.length !== tables[0].length || hasRepeats(held(table)))) {
        throw new Error(`Cannot account for KV blocks: a sequence has the tables ${JSON.stringify(tables)}`);
      }
    }
    this.#pools.forEach((pool, group) => pool.audit(sequences.flatMap(({ tables }) => held(tables[group]))));
    this.#cache?.audit();
  }

  stats(): KvStats {
    const all = this.#pools.map((pool) => pool.stats());
    return {
      groups: all.map(({ blocks, free, cached, used }) => ({ blocks, free, cached, used })),
      hits: this.#hits,
      misses: this.#misses,
      evictions: all.reduce((sum, { evictions }) => sum + evictions, 0),
    };
  }

  #blocksAtMost(group: number, tokens: number): number {
    const { policy, blockSize, stepTokensMax = Infinity } = this.#options;
    const { window } = policy.groups[group];
    const all = blocksFor(tokens, blockSize);
    // A prefix that runs through one layer after the other is there in full until it has run through all.
    if (window === null || policy.prefillCut === "layers") return all;
    // A span of n tokens touches one block more than its length says when it is not aligned.
    return Math.min(all, blocksFor(window - 1 + stepTokensMax - 1, blockSize) + 1);
  }

  #growth(table: readonly number[], group: number, { start, end }: PositionRange): Growth {
    const { blockSize } = this.#options;
    if (start > table.length * blockSize) {
      throw new Error(`Cannot write KV from position ${start}: expected no gap, got ${table.length} blocks`);
    }
    const growth: Growth = { added: Math.max(0, blocksFor(end, blockSize) - table.length), copied: [] };
    if (end <= start) return growth;
    const first = Math.floor(start / blockSize);
    for (let index = first; index < Math.min(table.length, blocksFor(end, blockSize)); index++) {
      const fromSlot = index === first ? start % blockSize : 0;
      if (!this.#pools[group].isWritable(table[index], fromSlot)) growth.copied.push(index);
    }
    return growth;
  }

  #apply(table: number[], group: number, { added, copied }: Growth): BlockCopy[] {
    const pool = this.#pools[group];
    const blocks = pool.allocate(added + copied.length);
    if (!blocks) throw new Error(`Cannot grow a sequence: expected ${added + copied.length} KV blocks`);
    const copies = copied.map((index, order) => {
      const from = table[index];
      table[index] = blocks[order];
      return { group, from, to: blocks[order] };
    });
    table.push(...blocks.slice(copied.length));
    // Given back only now, so that no copy's target is its source.
    pool.release(copies.map(({ from }) => from));
    return copies;
  }
}

function makeCache(
  { policy, blockSize, model }: KvManagerOptions,
  pools: readonly BlockPool[],
): PrefixCache | null {
  const options = { groups: policy.groups, pools, blockSize, model };
  if (policy.prefixReuse === "blocks") return new BlockPrefixCache(options);
  return policy.prefixReuse === "whole" ? new WholePrefixCache(options) : null;
}

function held(table: readonly number[]): number[] {
  return table.filter((block) => block !== nullBlock);
}

function hasRepeats(blocks: readonly number[]): boolean {
  return new Set(blocks).size !== blocks.length;
}
