import { describe, expect, test } from "bun:test";
import { BlockPool } from "../../../src/engine/kv-cache/block-pool.ts";

/** Caches a block and says, when it is evicted, so in `evicted`. */
function keep(pool: BlockPool, block: number, evicted: number[] = [], slots = 4): void {
  const evict = () => {
    evicted.push(block);
    pool.uncache(block);
  };
  pool.cache(block, { slots, evict });
}

function take(pool: BlockPool, count: number): number[] {
  const blocks = pool.allocate(count);
  if (!blocks) throw new Error(`the test expects ${count} blocks`);
  return blocks;
}

describe("allocate and release", () => {
  test("hands out every block but the null block once and takes them back", () => {
    const pool = new BlockPool(6);
    const first = take(pool, 3);
    expect(first).toEqual([1, 2, 3]);
    expect(pool.allocate(3)).toBeNull();
    expect(pool.availableCount).toBe(2);
    pool.release(first);
    expect(take(pool, 5).toSorted()).toEqual([1, 2, 3, 4, 5]);
  });

  test("a shared block is free after its last release", () => {
    const pool = new BlockPool(2);
    const [block] = take(pool, 1);
    pool.share(block);
    pool.release([block]);
    expect(pool.availableCount).toBe(0);
    pool.release([block]);
    expect(pool.availableCount).toBe(1);
  });

  test("our own bugs are thrown", () => {
    const pool = new BlockPool(3);
    const [block] = take(pool, 1);
    pool.release([block]);
    expect(() => pool.release([block])).toThrow("Cannot release KV block 1: it is not in use");
    expect(() => pool.share(block)).toThrow("Cannot share KV block 1: it is not in use");
    expect(() => pool.isWritable(block, 0)).toThrow("Cannot write KV block 1: it is not in use");
    expect(() => keep(pool, block)).toThrow("Cannot cache KV block 1: it is not in use");
    expect(() => pool.uncache(block)).toThrow("Cannot uncache KV block 1: it is not cached");
    expect(() => pool.release([0])).toThrow("Cannot release KV block 0: it is the null block");
    expect(() => pool.isWritable(0, 0)).toThrow("Cannot write KV block 0: it is the null block");
    expect(() => pool.release([99])).toThrow("it is not in use");
    expect(() => new BlockPool(0)).toThrow("expected at least 1, got 0");
  });
});

describe("cached blocks", () => {
  test("stay when nobody uses them, and are evicted least recently used first", () => {
    const pool = new BlockPool(5);
    const evicted: number[] = [];
    const blocks = take(pool, 4);
    for (const block of blocks) keep(pool, block, evicted);
    pool.release([3, 1, 4, 2]);
    pool.share(3);
    pool.release([3]);
    expect(pool.stats()).toEqual({ blocks: 4, free: 0, cached: 4, used: 0, evictions: 0 });
    expect(take(pool, 2)).toEqual([4, 1]);
    expect(evicted).toEqual([1, 4]);
    expect(pool.allocate(3)).toBeNull();
    expect(evicted).toEqual([1, 4]);
    take(pool, 2);
    expect(evicted).toEqual([1, 4, 2, 3]);
    expect(pool.stats()).toEqual({ blocks: 4, free: 0, cached: 0, used: 4, evictions: 4 });
  });

  test("are not evicted while they are used", () => {
    const pool = new BlockPool(3);
    const [first] = take(pool, 2);
    keep(pool, first);
    pool.release([first]);
    pool.share(first);
    expect(pool.allocate(1)).toBeNull();
    pool.auditCached([first]);
  });

  test("an eviction may take others along", () => {
    const pool = new BlockPool(4);
    const blocks = take(pool, 3);
    const evict = () => blocks.forEach((block) => pool.uncache(block));
    for (const block of blocks) pool.cache(block, { slots: 4, evict });
    pool.release(blocks);
    take(pool, 1);
    expect(pool.stats()).toEqual({ blocks: 3, free: 2, cached: 0, used: 1, evictions: 3 });
  });

  test("a cache that keeps what is to be evicted is a bug", () => {
    const pool = new BlockPool(2);
    const [block] = take(pool, 1);
    pool.cache(block, { slots: 4, evict: () => {} });
    pool.release([block]);
    expect(() => pool.allocate(1)).toThrow("Cannot evict KV block 1: its cache kept it");
  });

  test("may be written behind their cached slots, by the only user", () => {
    const pool = new BlockPool(2);
    const [block] = take(pool, 1);
    expect(pool.isWritable(block, 0)).toBe(true);
    keep(pool, block, [], 3);
    expect(pool.isWritable(block, 2)).toBe(false);
    expect(pool.isWritable(block, 3)).toBe(true);
    pool.share(block);
    expect(pool.isWritable(block, 3)).toBe(false);
  });
});

describe("audit", () => {
  test("passes when holders are as many as references", () => {
    const pool = new BlockPool(5);
    const [first, second, third] = take(pool, 3);
    pool.share(first);
    keep(pool, third);
    pool.release([third]);
    pool.audit([first, second, first, 0, 0]);
  });

  test("finds cached blocks that no cache knows, and known ones that are not cached", () => {
    const pool = new BlockPool(4);
    const [first, second] = take(pool, 2);
    keep(pool, first);
    pool.auditCached([first]);
    expect(() => pool.auditCached([])).toThrow("1 are cached, 0 are known");
    expect(() => pool.auditCached([first, first])).toThrow("1 are cached, 2 are known");
    expect(() => pool.auditCached([first, second])).toThrow("block 2: it is not cached any more");
  });

  test("finds a leaked block, a block held too often, and a use after free", () => {
    const pool = new BlockPool(3);
    const [first, second] = take(pool, 2);
    expect(() => pool.audit([first])).toThrow("block 2: it has 1 references, 0 holders");
    expect(() => pool.audit([first, second, second])).toThrow("block 2: it has 1 references, 2 holders");
    pool.release([first]);
    expect(() => pool.audit([first, second])).toThrow("block 1: it has 0 references, 1 holders");
  });
});
