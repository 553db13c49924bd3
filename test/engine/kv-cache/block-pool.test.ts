import { expect, test } from "bun:test";
import { BlockPool } from "../../../src/engine/kv-cache/block-pool.ts";
import { bytesPerBlock } from "../../../src/engine/kv-cache/spec.ts";

test("hands out every block once and takes them back", () => {
  const pool = new BlockPool(5);
  const first = pool.allocate(3);
  expect(first).toEqual([0, 1, 2]);
  expect(pool.allocate(3)).toBeNull();
  expect(pool.freeCount).toBe(2);
  pool.release(first ?? []);
  expect([...(pool.allocate(5) ?? [])].sort()).toEqual([0, 1, 2, 3, 4]);
});

test("refuses to take a block back twice", () => {
  const pool = new BlockPool(2);
  const blocks = pool.allocate(1) ?? [];
  pool.release(blocks);
  expect(() => pool.release(blocks)).toThrow("it is free already");
});

test("HRM-Text-1B keeps 768 KiB a token", () => {
  const spec = {
    kind: "full-attention",
    blockSize: 16,
    kvHeads: 12,
    headDim: 128,
    dtype: "f16",
    nonCausal: true,
  } as const;
  expect((bytesPerBlock(spec) * 128) / 16).toBe(768 * 1024);
});
