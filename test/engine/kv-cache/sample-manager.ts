/** Small KV managers and ids for tests: blocks of 4 tokens, groups by window. */
import type { KvPolicy } from "../../../src/engine/kv-cache/aggregate.ts";
import { KvManager, type PrefixQuery, type SequenceKv } from "../../../src/engine/kv-cache/kv-manager.ts";

export const blockSize = 4;

export interface SampleOptions {
  windows?: readonly (number | null)[];
  reuse?: KvPolicy["prefixReuse"];
  /** Of each group, the null block included. */
  blockCount?: number;
  model?: string;
  stepTokensMax?: number;
}

export function sampleManager({
  windows = [null],
  reuse = "blocks",
  blockCount = 20,
  model = "m",
  stepTokensMax,
}: SampleOptions = {}): KvManager {
  const policy: KvPolicy = {
    groups: windows.map((window, slot) => ({ window, layers: [slot] })),
    layerGroups: windows.map((_, slot) => slot),
    bytesPerBlock: windows.map(() => 1),
    blockSize,
    nonCausal: reuse === "whole",
    prefillCut: reuse === "whole" ? "layers" : "tokens",
    prefixReuse: reuse,
    notices: [],
  };
  const blockCounts = windows.map(() => blockCount);
  return new KvManager({ policy, blockCounts, blockSize, model, stepTokensMax });
}

/** Ids 100, 101, ... */
export function idsOf(count: number, first = 100): number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}

/** A sequence whose first `computed` tokens have run, from an empty cache or not. */
export function computedSequence(
  manager: KvManager,
  query: PrefixQuery,
  computed = query.ids.length,
): SequenceKv {
  const kv = manager.newSequence();
  const { tokens } = manager.adopt(kv, query);
  if (!manager.grow(kv, { start: tokens, end: computed })) throw new Error("the test expects enough blocks");
  manager.commit(kv, query, computed);
  return kv;
}
