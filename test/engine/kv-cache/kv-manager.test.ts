import { describe, expect, test } from "bun:test";
import { aggregate } from "../../../src/engine/kv-cache/aggregate.ts";
import { KvManager } from "../../../src/engine/kv-cache/kv-manager.ts";
import type { KvCacheSpec } from "../../../src/engine/kv-cache/spec.ts";
import { seededIntegers } from "./kv-simulation.ts";
import { computedSequence, idsOf, sampleManager } from "./sample-manager.ts";

const fullAttention: KvCacheSpec = {
  kind: "full-attention",
  nonCausal: false,
  blockSize: 4,
  kvHeads: 1,
  headDim: 4,
  dtype: "f16",
};
const query = (count: number) => ({ ids: idsOf(count), prefixLength: 0, salt: "" });

describe("grow", () => {
  test("appends blocks in every group, and none that are there", () => {
    const manager = sampleManager({ windows: [null, 8] });
    const kv = manager.newSequence();
    expect(manager.grow(kv, { start: 0, end: 5 })).toEqual([]);
    expect(kv.tables).toEqual([
      [1, 2],
      [1, 2],
    ]);
    expect(manager.grow(kv, { start: 5, end: 8 })).toEqual([]);
    expect(kv.tables[0].length).toBe(2);
    manager.audit([kv]);
  });

  test("changes nothing when one group is short", () => {
    const manager = sampleManager({ windows: [null, 4], blockCount: 5 });
    const kv = manager.newSequence();
    const other = manager.newSequence();
    manager.grow(kv, { start: 0, end: 12 });
    manager.trim(kv, 12);
    manager.grow(other, { start: 0, end: 4 });
    const before = structuredClone({ kv, other, stats: manager.stats() });
    expect(manager.grow(other, { start: 4, end: 9 })).toBeNull();
    expect({ kv, other, stats: manager.stats() }).toEqual(before);
    manager.audit([kv, other]);
  });

  test("a gap, or a block that was given back, is a bug", () => {
    const manager = sampleManager({ windows: [4] });
    const kv = manager.newSequence();
    manager.grow(kv, { start: 0, end: 12 });
    expect(() => manager.grow(kv, { start: 13, end: 14 })).toThrow(
      "Cannot write KV from position 13: expected no gap, got 3 blocks",
    );
    manager.trim(kv, 12);
    expect(() => manager.grow(kv, { start: 2, end: 3 })).toThrow("it is the null block");
  });
});

describe("fork", () => {
  test("shares all blocks; the partial last one is copied by all but the last to write", () => {
    const manager = sampleManager();
    const first = computedSequence(manager, query(10));
    const second = manager.fork(first);
    const third = manager.fork(first);
    expect(second.tables).toEqual(first.tables);
    expect(manager.stats().groups[0].used).toBe(3);
    const shared = first.tables[0][2];
    const copies = [first, second, third].map((kv) => manager.grow(kv, { start: 10, end: 11 }));
    expect(copies).toEqual([
      [{ group: 0, from: shared, to: first.tables[0][2] }],
      [{ group: 0, from: shared, to: second.tables[0][2] }],
      [],
    ]);
    expect(third.tables[0][2]).toBe(shared);
    expect(manager.stats().groups[0].used).toBe(5);
    manager.audit([first, second, third]);
  });

  test("copies nothing at a block boundary", () => {
    const manager = sampleManager();
    const first = computedSequence(manager, query(8));
    const second = manager.fork(first);
    expect(manager.grow(second, { start: 8, end: 9 })).toEqual([]);
    manager.audit([first, second]);
  });

  test("is refused its copy when no block is left, until the other one is released", () => {
    const manager = sampleManager({ blockCount: 4, reuse: "none" });
    const first = computedSequence(manager, query(10));
    const second = manager.fork(first);
    expect(manager.grow(second, { start: 10, end: 11 })).toBeNull();
    manager.release(first);
    expect(manager.grow(second, { start: 10, end: 11 })).toEqual([]);
    manager.audit([second]);
  });
});

describe("trim", () => {
  test("gives back what lies before the window of every later query", () => {
    const manager = sampleManager({ windows: [null, 5], reuse: "none" });
    const kv = manager.newSequence();
    manager.grow(kv, { start: 0, end: 16 });
    // The token at 11 sees 7 to 11, the one at 12 sees 8 to 12.
    manager.trim(kv, 11);
    expect(kv.tables[1]).toEqual([0, 2, 3, 4]);
    manager.trim(kv, 12);
    expect(kv.tables[1]).toEqual([0, 0, 3, 4]);
    expect(kv.tables[0]).toEqual([1, 2, 3, 4]);
    expect(manager.stats().groups.map(({ used }) => used)).toEqual([4, 2]);
    manager.trim(kv, 12);
    manager.audit([kv]);
    manager.release(kv);
    manager.audit([]);
  });
});

describe("canEverHold", () => {
  test("counts whole blocks, without the null block", () => {
    const manager = sampleManager({ blockCount: 5 });
    expect(manager.canEverHold(16)).toBe(true);
    expect(manager.canEverHold(17)).toBe(false);
  });

  test("what it promises, one sequence alone gets, whatever is cached", () => {
    const manager = sampleManager({ blockCount: 5, reuse: "whole" });
    const prefix = { ids: idsOf(10), prefixLength: 10, salt: "" };
    manager.release(computedSequence(manager, prefix));
    const kv = manager.newSequence();
    manager.adopt(kv, prefix);
    for (let position = 10; position < 16; position++) {
      expect(manager.grow(kv, { start: position, end: position + 1 })).toEqual([]);
    }
    expect(manager.grow(kv, { start: 16, end: 17 })).toBeNull();
    manager.audit([kv]);
  });

  test.each([
    [3, 1],
    [6, 4],
    [5, 3],
    [4, 3],
    [3, 4],
  ])("a window of %i with steps of %i tokens needs few blocks for any length", (window, stepTokensMax) => {
    const needed = Array.from({ length: 20 }, (_, count) => count + 1).find((blockCount) =>
      sampleManager({ windows: [window], blockCount, stepTokensMax }).canEverHold(1000),
    );
    const manager = sampleManager({ windows: [window], blockCount: needed, stepTokensMax });
    const kv = manager.newSequence();
    let usedMax = 0;
    const below = seededIntegers(1);
    for (let start = 0; start < 400;) {
      const length = below(2) === 0 ? stepTokensMax : 1 + below(stepTokensMax);
      expect(manager.grow(kv, { start, end: start + length })).toEqual([]);
      usedMax = Math.max(usedMax, manager.stats().groups[0].used);
      start += length;
      manager.trim(kv, start);
    }
    expect(usedMax).toBe((needed ?? 0) - 1);
  });
});

describe("our own bugs are thrown", () => {
  test("adopting into a sequence that has blocks", () => {
    const manager = sampleManager();
    const kv = computedSequence(manager, query(5));
    expect(() => manager.adopt(kv, query(5))).toThrow("expected a sequence without blocks");
  });

  test("committing tokens that have no block", () => {
    const manager = sampleManager();
    const kv = computedSequence(manager, query(5));
    expect(() => manager.commit(kv, query(9), 9)).toThrow(
      "Cannot commit 9 tokens: the sequence has blocks for 8",
    );
  });

  test("block counts that are not of the policy's groups", () => {
    const policy = aggregate([[fullAttention]]);
    expect(() => new KvManager({ policy, blockCounts: [4, 4], blockSize: 4, model: "m" })).toThrow(
      "Cannot manage KV blocks: expected counts of 1 groups, got 2",
    );
  });

  test("audit finds a sequence that was dropped without release, and a table that was tampered with", () => {
    const manager = sampleManager();
    const kv = computedSequence(manager, query(10));
    expect(() => manager.audit([])).toThrow("block 1: it has 1 references, 0 holders");
    kv.tables[0][1] = kv.tables[0][0];
    expect(() => manager.audit([kv])).toThrow("a sequence has the tables [[1,1,3]]");
  });
});
