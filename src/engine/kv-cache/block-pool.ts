/**
 * Physical blocks of the KV cache of one group of layers: who holds which, and what is kept for later.
 *
 * A block is free, used (it has references), or idle: cached content that nobody uses now, given up, least recently
 * used first, when blocks are needed. Block 0 is the null block: it stands for "no block here", is never given out,
 * and what is written to it is lost on purpose. Does not know what a block contains; that is the prefix cache's.
 */

/** Reads of it are masked, writes to it are dropped. */
export const nullBlock = 0;

/** What a prefix cache says of a block it wants to keep. */
export interface CachedContent {
  /** The leading token slots whose content must stay as it is. */
  slots: number;
  /** Forgets the content: must `uncache` this block, and any other that is worthless without it. */
  evict: () => void;
}

export interface PoolStats {
  /** Blocks that can be given out: the sum of the next three. */
  blocks: number;
  free: number;
  /** Idle ones only: content that is cached and used counts as used. */
  cached: number;
  used: number;
  /** Blocks whose cached content was given up, so far. */
  evictions: number;
}

export class BlockPool {
  /** Blocks in all, the null block included. */
  readonly blockCount: number;
  readonly #free: number[];
  readonly #references: Uint32Array;
  readonly #cached = new Map<number, CachedContent>();
  /** Cached blocks without references, least recently used first. */
  readonly #idle = new Set<number>();
  #evictions = 0;

  constructor(blockCount: number) {
    if (!Number.isInteger(blockCount) || blockCount < 1) {
      throw new RangeError(`Cannot make a pool of KV blocks: expected at least 1, got ${blockCount}`);
    }
    this.blockCount = blockCount;
    this.#free = Array.from({ length: blockCount - 1 }, (_, index) => blockCount - 1 - index);
    this.#references = new Uint32Array(blockCount);
  }

  /** Blocks that `allocate` can give: free ones, and idle ones. Evicting does not change it. */
  get availableCount(): number {
    return this.#free.length + this.#idle.size;
  }

  stats(): PoolStats {
    const blocks = this.blockCount - 1;
    const used = blocks - this.availableCount;
    return { blocks, free: this.#free.length, cached: this.#idle.size, used, evictions: this.#evictions };
  }

  /** Takes `count` blocks, with one reference each. Returns null, taking and evicting none, when there are too few. */
  allocate(count: number): number[] | null {
    if (count > this.availableCount) return null;
    while (this.#free.length < count) this.#evictOldest();
    return Array.from({ length: count }, () => {
      const block = this.#free.pop() as number;
      this.#references[block] = 1;
      return block;
    });
  }

  /** Adds a reference to a block that is used or cached. */
  share(block: number): void {
    if (!this.#isHeldOrCached(block)) throw new Error(`Cannot share KV block ${block}: it is not in use`);
    this.#references[block]++;
    this.#idle.delete(block);
  }

  /** Takes a reference from each; a cached block without references becomes the most recently used idle one. */
  release(blocks: readonly number[]): void {
    for (const block of blocks) {
      this.#assertUsed(block, "release");
      if (--this.#references[block] > 0) continue;
      if (this.#cached.has(block)) this.#idle.add(block);
      else this.#free.push(block);
    }
  }

  /** Keeps the content of a used block beyond its last reference. */
  cache(block: number, content: CachedContent): void {
    this.#assertUsed(block, "cache");
    if (this.#cached.has(block)) throw new Error(`Cannot cache KV block ${block}: it is cached already`);
    this.#cached.set(block, content);
  }

  uncache(block: number): void {
    if (!this.#cached.delete(block)) throw new Error(`Cannot uncache KV block ${block}: it is not cached`);
    this.#evictions++;
    if (this.#idle.delete(block)) this.#free.push(block);
  }

  /** Whether a holder may write from this slot of the block on: nobody else uses it, and no cached slot is touched. */
  isWritable(block: number, fromSlot: number): boolean {
    this.#assertUsed(block, "write");
    return this.#references[block] === 1 && fromSlot >= (this.#cached.get(block)?.slots ?? 0);
  }

  /**
   * Throws unless every block is in exactly one place, and is referenced exactly as often as `held` names it: a block
   * once for each of its holders, null blocks aside.
   */
  audit(held: Iterable<number>): void {
    const holders = new Uint32Array(this.blockCount);
    for (const block of held) if (block !== nullBlock) holders[block]++;
    const free = new Set(this.#free);
    if (free.size !== this.#free.length) throw new Error("Cannot account for KV blocks: one is free twice");
    for (let block = 0; block < this.blockCount; block++) {
      const fault = this.#faultOf(block, holders[block], free.has(block));
      if (fault) throw new Error(`Cannot account for KV block ${block}: ${fault}`);
    }
  }

  /** Throws unless the cached blocks are these, each named once. */
  auditCached(kept: readonly number[]): void {
    const lost = kept.find((block) => !this.#cached.has(block));
    if (lost !== undefined) throw new Error(`Cannot account for KV block ${lost}: it is not cached any more`);
    if (kept.length === this.#cached.size) return;
    throw new Error(
      `Cannot account for KV blocks: ${this.#cached.size} are cached, ${kept.length} are known`,
    );
  }

  #faultOf(block: number, holders: number, isFree: boolean): string | null {
    const references = this.#references[block];
    const isIdle = this.#idle.has(block);
    const isCached = this.#cached.has(block);
    const places = Number(isFree) + Number(isIdle) + Number(references > 0);
    if (references !== holders) return `it has ${references} references, ${holders} holders`;
    if (places !== (block === nullBlock ? 0 : 1)) return `it is in ${places} places`;
    if (isFree && isCached) return "it is free, but cached";
    if (isIdle && !isCached) return "it is idle, but not cached";
    return null;
  }

  #evictOldest(): void {
    const [oldest] = this.#idle;
    this.#cached.get(oldest)?.evict();
    if (this.#idle.has(oldest)) throw new Error(`Cannot evict KV block ${oldest}: its cache kept it`);
  }

  #isHeldOrCached(block: number): boolean {
    return this.#references[block] > 0 || this.#cached.has(block);
  }

  #assertUsed(block: number, action: string): void {
    if (block === nullBlock) throw new Error(`Cannot ${action} KV block 0: it is the null block`);
    if (!(this.#references[block] > 0))
      throw new Error(`Cannot ${action} KV block ${block}: it is not in use`);
  }
}
