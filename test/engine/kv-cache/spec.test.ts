import { expect, test } from "bun:test";
import { bytesPerBlock, type KvCacheSpec } from "../../../src/engine/kv-cache/spec.ts";

const hrmText1b: KvCacheSpec = {
  kind: "full-attention",
  blockSize: 16,
  kvHeads: 12,
  headDim: 128,
  dtype: "f16",
  nonCausal: true,
};

test("HRM-Text-1B keeps 768 KiB a token", () => {
  expect((bytesPerBlock(hrmText1b) * 128) / 16).toBe(768 * 1024);
});

test("HRM-Text-1B keeps 396 KiB a token in 8 bits, the scales of its heads included", () => {
  expect((bytesPerBlock({ ...hrmText1b, dtype: "i8" }) * 128) / 16).toBe(396 * 1024);
});

test("f32 takes twice as much as 16-bit formats", () => {
  expect(bytesPerBlock({ ...hrmText1b, dtype: "f32" })).toBe(2 * bytesPerBlock(hrmText1b));
  expect(bytesPerBlock({ ...hrmText1b, dtype: "bf16" })).toBe(bytesPerBlock(hrmText1b));
});
