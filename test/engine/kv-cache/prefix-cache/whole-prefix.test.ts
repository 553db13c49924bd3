import { describe, expect, test } from "bun:test";
import type { KvManager, PrefixQuery } from "../../../../src/engine/kv-cache/kv-manager.ts";
import { noHit } from "../../../../src/engine/kv-cache/prefix-cache/prefix-cache.ts";
import { computedSequence, idsOf, sampleManager } from "../sample-manager.ts";

function prefixOf(count: number, changes: Partial<PrefixQuery> = {}): PrefixQuery {
  return { ids: idsOf(count), prefixLength: count, salt: "", ...changes };
}

function lookUp(manager: KvManager, query: PrefixQuery) {
  const kv = manager.newSequence();
  return { kv, hit: manager.adopt(kv, query) };
}

describe("a hit", () => {
  test("shares all blocks; the last token is run again for its logits", () => {
    const manager = sampleManager({ reuse: "whole" });
    const first = computedSequence(manager, prefixOf(10));
    const { kv, hit } = lookUp(manager, prefixOf(10));
    expect(hit).toEqual({ kind: "whole", tokens: 9, isLastRecomputed: true });
    expect(kv.tables).toEqual(first.tables);
    expect(manager.stats()).toMatchObject({ hits: 1, misses: 1, groups: [{ used: 3 }] });
    manager.audit([first, kv]);
  });

  test("with a causal rest of the prompt behind it runs that rest only", () => {
    const manager = sampleManager({ reuse: "whole" });
    computedSequence(manager, { ids: idsOf(13), prefixLength: 10, salt: "" });
    const other = { ids: [...idsOf(10), 7, 8, 9, 7], prefixLength: 10, salt: "" };
    const { kv, hit } = lookUp(manager, other);
    expect(hit).toEqual({ kind: "whole", tokens: 10, isLastRecomputed: false });
    expect(kv.tables[0].length).toBe(3);
  });

  test("of a preempted sequence runs its output only", () => {
    const manager = sampleManager({ reuse: "whole" });
    const kv = computedSequence(manager, prefixOf(8));
    manager.release(kv);
    const resumed = manager.adopt(kv, { ids: idsOf(11), prefixLength: 8, salt: "" });
    expect(resumed).toEqual({ kind: "whole", tokens: 8, isLastRecomputed: false });
  });

  test("comes once all of the prefix has run through all layers, not before", () => {
    const manager = sampleManager({ reuse: "whole" });
    const query = prefixOf(10);
    const kv = manager.newSequence();
    manager.grow(kv, { start: 0, end: 10 });
    for (const computed of [0, 9]) {
      manager.commit(kv, query, computed);
      expect(lookUp(manager, query).hit).toEqual(noHit);
    }
    manager.commit(kv, query, 10);
    expect(lookUp(manager, query).hit.kind).toBe("whole");
  });

  test("lives on after its sequence", () => {
    const manager = sampleManager({ reuse: "whole" });
    manager.release(computedSequence(manager, prefixOf(10)));
    expect(manager.stats().groups).toEqual([{ blocks: 19, free: 16, cached: 3, used: 0 }]);
    const { kv, hit } = lookUp(manager, prefixOf(10));
    expect(hit.kind).toBe("whole");
    manager.audit([kv]);
  });
});

describe("an entry", () => {
  test("is made once, though two sequences compute the prefix side by side", () => {
    const manager = sampleManager({ reuse: "whole" });
    const query = prefixOf(10);
    const pair = [manager.newSequence(), manager.newSequence()];
    for (const kv of pair) {
      manager.adopt(kv, query);
      manager.grow(kv, { start: 0, end: 10 });
    }
    for (const kv of pair) manager.commit(kv, query, 10);
    manager.audit(pair);
    expect(lookUp(manager, query).kv.tables).toEqual(pair[0].tables);
    expect(lookUp(manager, query).kv.tables).not.toEqual(pair[1].tables);
  });

  test("is made again by a sequence that was preempted and found it evicted", () => {
    const manager = sampleManager({ reuse: "whole", blockCount: 4 });
    const query = prefixOf(10);
    const kv = computedSequence(manager, query);
    manager.release(kv);
    const other = manager.newSequence();
    manager.grow(other, { start: 0, end: 12 });
    expect(manager.adopt(kv, query)).toEqual(noHit);
    manager.release(other);
    manager.grow(kv, { start: 0, end: 10 });
    manager.commit(kv, query, 10);
    expect(lookUp(manager, query).hit.kind).toBe("whole");
  });
});

describe("no hit", () => {
  const longer = [...idsOf(10), 5];
  test.each<[string, PrefixQuery]>([
    ["another id", prefixOf(10, { ids: [...idsOf(9), 5] })],
    ["a shorter prefix of the same ids", { ids: idsOf(10), prefixLength: 9, salt: "" }],
    ["a longer prefix that begins alike", prefixOf(11, { ids: longer })],
    ["the same beginning in whole blocks", prefixOf(8)],
    ["another salt", prefixOf(10, { salt: "tenant" })],
    ["the same ids in a causal request", prefixOf(10, { prefixLength: 0 })],
  ])("with %s", (_, query) => {
    const manager = sampleManager({ reuse: "whole" });
    computedSequence(manager, prefixOf(10));
    const { kv, hit } = lookUp(manager, query);
    expect(hit).toEqual(noHit);
    expect(kv.tables).toEqual([[]]);
  });

  test.each([0, 1])("of P = %i: it is not kept", (prefixLength) => {
    const manager = sampleManager({ reuse: "whole" });
    const query = { ids: idsOf(10), prefixLength, salt: "" };
    manager.release(computedSequence(manager, query));
    expect(lookUp(manager, query).hit).toEqual(noHit);
    expect(manager.stats().groups[0].cached).toBe(0);
  });

  test("model and salt cannot run into each other", () => {
    const manager = sampleManager({ reuse: "whole", model: 'm","s' });
    computedSequence(manager, prefixOf(10, { salt: "" }));
    expect(lookUp(manager, prefixOf(10, { salt: 's","' })).hit).toEqual(noHit);
  });

  test("a prefix longer than its ids is a bug", () => {
    const manager = sampleManager({ reuse: "whole" });
    expect(() => lookUp(manager, prefixOf(10, { prefixLength: 11 }))).toThrow(
      "Cannot look up a prefix of 11 tokens: got 10 ids",
    );
  });
});

describe("the partial last block", () => {
  test("is copied before a second sequence decodes into it", () => {
    const manager = sampleManager({ reuse: "whole" });
    const first = computedSequence(manager, prefixOf(10));
    const { kv } = lookUp(manager, prefixOf(10));
    const shared = first.tables[0][2];
    // The recomputed token is not written: nothing to make room for.
    expect(manager.grow(kv, { start: 10, end: 10 })).toEqual([]);
    expect(kv.tables).toEqual(first.tables);
    const copies = manager.grow(kv, { start: 10, end: 11 });
    expect(copies).toEqual([{ group: 0, from: shared, to: kv.tables[0][2] }]);
    expect(kv.tables[0][2]).not.toBe(shared);
    expect(kv.tables[0].slice(0, 2)).toEqual(first.tables[0].slice(0, 2));
    manager.audit([first, kv]);
  });

  test("is written in place, behind the prefix, by who holds it alone: its slots stay what they are", () => {
    const manager = sampleManager({ reuse: "whole" });
    const first = computedSequence(manager, prefixOf(10));
    expect(manager.grow(first, { start: 10, end: 11 })).toEqual([]);
    const { kv } = lookUp(manager, prefixOf(10));
    expect(manager.grow(kv, { start: 10, end: 11 })?.length).toBe(1);
    expect(manager.grow(first, { start: 11, end: 12 })).toEqual([]);
    manager.audit([first, kv]);
  });

  test("is copied even by who holds it alone, if one of the prefix's slots is to be written", () => {
    const manager = sampleManager({ reuse: "whole" });
    const first = computedSequence(manager, prefixOf(10));
    expect(manager.grow(first, { start: 9, end: 11 })?.length).toBe(1);
    manager.audit([first]);
    expect(lookUp(manager, prefixOf(10)).hit.kind).toBe("whole");
  });

  test("does not exist where P is a multiple of the block size", () => {
    const manager = sampleManager({ reuse: "whole" });
    computedSequence(manager, prefixOf(8));
    const { kv } = lookUp(manager, prefixOf(8));
    expect(manager.grow(kv, { start: 8, end: 9 })).toEqual([]);
    expect(kv.tables[0].length).toBe(3);
  });
});

describe("eviction", () => {
  test("takes an entry's blocks together, of the entry that was used longest ago", () => {
    const manager = sampleManager({ reuse: "whole", blockCount: 8 });
    const old = prefixOf(10);
    const recent = prefixOf(12, { ids: idsOf(12, 500) });
    manager.release(computedSequence(manager, old));
    manager.release(computedSequence(manager, recent));
    manager.release(lookUp(manager, old).kv);
    const other = manager.newSequence();
    expect(manager.grow(other, { start: 0, end: 8 })).toEqual([]);
    expect(manager.stats()).toMatchObject({ evictions: 3, groups: [{ free: 2, cached: 3, used: 2 }] });
    expect(lookUp(manager, recent).hit).toEqual(noHit);
    const { kv, hit } = lookUp(manager, old);
    expect(hit.kind).toBe("whole");
    manager.audit([other, kv]);
  });

  test("never takes a block that a sequence uses", () => {
    const manager = sampleManager({ reuse: "whole", blockCount: 5 });
    const first = computedSequence(manager, prefixOf(12));
    const other = manager.newSequence();
    expect(manager.grow(other, { start: 0, end: 8 })).toBeNull();
    expect(lookUp(manager, prefixOf(12)).kv.tables).toEqual(first.tables);
  });

  test("takes the entry in all groups", () => {
    const manager = sampleManager({ reuse: "whole", windows: [null, 64], blockCount: 5 });
    manager.release(computedSequence(manager, prefixOf(16)));
    const other = computedSequence(manager, prefixOf(2, { ids: [1, 2] }));
    expect(manager.stats().groups.map(({ cached }) => cached)).toEqual([0, 0]);
    expect(manager.stats().evictions).toBe(8);
    manager.audit([other]);
  });
});

describe("with sliding windows", () => {
  test("an entry holds what the recomputed token sees, and no more", () => {
    const manager = sampleManager({ reuse: "whole", windows: [null, 5] });
    // The token at 12 sees 8 to 12, the one at 13 sees 9 to 13: block 2 is the first of both.
    manager.release(computedSequence(manager, prefixOf(13)));
    const { kv } = lookUp(manager, prefixOf(13));
    expect(kv.tables.map((table) => table.map((block) => block > 0))).toEqual([
      [true, true, true, true],
      [false, false, true, true],
    ]);
    expect(manager.stats().groups.map(({ used }) => used)).toEqual([4, 2]);
    manager.audit([kv]);
  });

  test.each([
    // The recomputed token sees 9 to 12, all in what is left.
    [13, "whole"],
    // It sees 7 to 10, and 4 to 7 were given back.
    [11, "none"],
  ])("P = %i, trimmed before it is committed: %s", (prefixLength, kind) => {
    const manager = sampleManager({ reuse: "whole", windows: [null, 4] });
    const kv = manager.newSequence();
    manager.grow(kv, { start: 0, end: prefixLength });
    manager.trim(kv, prefixLength);
    manager.commit(kv, prefixOf(prefixLength), prefixLength);
    expect(lookUp(manager, prefixOf(prefixLength)).hit.kind).toBe(kind as never);
  });
});
