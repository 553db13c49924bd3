import { describe, expect, test } from "bun:test";
import type { KvManager, PrefixQuery } from "../../../../src/engine/kv-cache/kv-manager.ts";
import { noHit } from "../../../../src/engine/kv-cache/prefix-cache/prefix-cache.ts";
import { computedSequence, idsOf, sampleManager } from "../sample-manager.ts";

function query(ids: readonly number[], salt = ""): PrefixQuery {
  return { ids, prefixLength: 0, salt };
}

function lookUp(manager: KvManager, ids: readonly number[], salt = "") {
  const kv = manager.newSequence();
  return { kv, hit: manager.adopt(kv, query(ids, salt)) };
}

describe("a hit", () => {
  test("is the longest common beginning in full blocks", () => {
    const manager = sampleManager();
    const first = computedSequence(manager, query(idsOf(14)));
    const { kv, hit } = lookUp(manager, [...idsOf(10), 1, 2, 3]);
    expect(hit).toEqual({ kind: "blocks", tokens: 8, isLastRecomputed: false });
    expect(kv.tables[0]).toEqual(first.tables[0].slice(0, 2));
    manager.audit([first, kv]);
  });

  test.each([
    [12, 8],
    [13, 12],
    [4, 0],
    [5, 4],
    [1, 0],
  ])("of %i tokens that are all known leaves the last one to be computed: %i", (count, tokens) => {
    const manager = sampleManager();
    computedSequence(manager, query(idsOf(16)));
    expect(lookUp(manager, idsOf(count)).hit.tokens).toBe(tokens);
  });

  test("needs the same beginning, not just the same block", () => {
    const manager = sampleManager();
    computedSequence(manager, query([1, 1, 1, 1, ...idsOf(4)]));
    expect(lookUp(manager, [2, 2, 2, 2, ...idsOf(4), 9]).hit).toEqual(noHit);
    expect(lookUp(manager, [...idsOf(4), 9]).hit).toEqual(noHit);
  });

  test("needs the same salt", () => {
    const manager = sampleManager();
    computedSequence(manager, query(idsOf(9), "a"));
    expect(lookUp(manager, idsOf(9), "b").hit).toEqual(noHit);
    expect(lookUp(manager, idsOf(9), "a").hit.tokens).toBe(8);
  });

  test("includes outputs, chunk by chunk, but not tokens whose id is unknown yet", () => {
    const manager = sampleManager();
    const kv = computedSequence(manager, query(idsOf(11)), 6);
    expect(lookUp(manager, idsOf(20)).hit.tokens).toBe(4);
    manager.grow(kv, { start: 6, end: 12 });
    // The token at 11 has run, but what it is has not been read.
    manager.commit(kv, query(idsOf(11)), 12);
    expect(lookUp(manager, idsOf(20)).hit.tokens).toBe(8);
    manager.commit(kv, query(idsOf(13)), 12);
    expect(lookUp(manager, idsOf(20)).hit.tokens).toBe(12);
  });

  test("is the same block for all who ask; one who computed it too keeps its own", () => {
    const manager = sampleManager();
    const first = manager.newSequence();
    const second = manager.newSequence();
    for (const kv of [first, second]) {
      manager.adopt(kv, query(idsOf(8)));
      manager.grow(kv, { start: 0, end: 8 });
    }
    manager.commit(first, query(idsOf(8)), 8);
    manager.commit(second, query(idsOf(8)), 8);
    expect(second.tables).not.toEqual(first.tables);
    expect(lookUp(manager, idsOf(9)).kv.tables).toEqual(first.tables);
  });
});

describe("eviction", () => {
  test("takes a sequence's last blocks first, for the others are worth nothing without the first", () => {
    const manager = sampleManager({ blockCount: 5 });
    manager.release(computedSequence(manager, query(idsOf(16))));
    const other = manager.newSequence();
    manager.grow(other, { start: 0, end: 5 });
    expect(manager.stats()).toMatchObject({ evictions: 2, groups: [{ cached: 2, used: 2 }] });
    const { kv, hit } = lookUp(manager, idsOf(16));
    expect(hit.tokens).toBe(8);
    manager.audit([other, kv]);
  });

  test("makes a later sequence store the block again", () => {
    const manager = sampleManager({ blockCount: 3 });
    manager.release(computedSequence(manager, query(idsOf(8))));
    manager.release(computedSequence(manager, query(idsOf(8, 500))));
    expect(lookUp(manager, idsOf(8)).hit).toEqual(noHit);
    manager.release(computedSequence(manager, query(idsOf(8))));
    expect(lookUp(manager, idsOf(8)).hit.tokens).toBe(4);
  });
});

describe("with sliding windows", () => {
  test("a hit needs the blocks that the next token sees, and takes no others", () => {
    const manager = sampleManager({ windows: [null, 5] });
    computedSequence(manager, query(idsOf(16)));
    const { kv, hit } = lookUp(manager, idsOf(20));
    expect(hit.tokens).toBe(16);
    // The token at 16 sees 12 to 16.
    expect(kv.tables.map((table) => table.map((block) => block > 0))).toEqual([
      [true, true, true, true],
      [false, false, false, true],
    ]);
  });

  test("a hit is as long as the group that has least allows", () => {
    const manager = sampleManager({ windows: [null, 6], blockCount: 7 });
    const kv = computedSequence(manager, query(idsOf(16)));
    // Blocks 0 and 1 of the second group are given back and then lost to another sequence.
    manager.trim(kv, 16);
    manager.release(kv);
    const other = manager.newSequence();
    manager.grow(other, { start: 0, end: 16 });
    const groups = manager.stats().groups.map(({ cached }) => cached);
    expect(groups).toEqual([2, 2]);
    expect(lookUp(manager, idsOf(20)).hit).toEqual(noHit);
  });

  test("only windows: old blocks need not be there", () => {
    const manager = sampleManager({ windows: [6], blockCount: 7 });
    const kv = computedSequence(manager, query(idsOf(16)));
    manager.trim(kv, 16);
    const other = manager.newSequence();
    manager.grow(other, { start: 0, end: 16 });
    expect(manager.stats()).toMatchObject({ evictions: 2 });
    expect(lookUp(manager, idsOf(20)).kv.tables).toEqual([kv.tables[0]]);
    expect(lookUp(manager, idsOf(12)).hit).toEqual(noHit);
  });
});
