import { describe, expect, test } from "bun:test";
import { aggregate, type KvPolicy } from "../../../src/engine/kv-cache/aggregate.ts";
import type { KvCacheSpec } from "../../../src/engine/kv-cache/spec.ts";
import { KvSimulation, type Seen, seededIntegers } from "./kv-simulation.ts";

const size = { blockSize: 4, kvHeads: 1, headDim: 4, dtype: "f16" } as const;
const causal: KvCacheSpec = { kind: "full-attention", nonCausal: false, ...size };
const nonCausal: KvCacheSpec = { ...causal, nonCausal: true };
const windowed: KvCacheSpec = { kind: "sliding-window", slidingWindow: 6, ...size };

const layers: Record<string, readonly KvCacheSpec[]> = {
  causal: [causal],
  "causal with windows": [causal, windowed],
  "windows only": [windowed],
  "Prefix LM": [nonCausal],
  "Prefix LM with windows": [windowed, nonCausal],
};
const operations = 2000;
/** So many blocks that as many operations do not use them up. */
const roomy = { blockCount: 4000, operations: 1200 };

function policyOf(name: string): KvPolicy {
  return aggregate([layers[name]]);
}

function simulate(name: string, blockCount: number, seed: number): Seen {
  const policy = policyOf(name);
  const isRoomy = blockCount === roomy.blockCount;
  const blockCounts = policy.groups.map((_, group) => blockCount + group);
  const simulation = new KvSimulation({ policy, blockCounts, seed, idsMax: isRoomy ? 7 : 20, isRoomy });
  try {
    simulation.run(isRoomy ? roomy.operations : operations);
  } catch (error) {
    throw new Error(`${name}, ${blockCount} blocks, seed ${seed}: ${String(error)}`, { cause: error });
  }
  return simulation.seen;
}

describe.each(Object.keys(layers))("random operations: %s", (name) => {
  test("a tiny pool never mixes contents, loses a block, or refuses without need", () => {
    const all = [1, 2, 3].map((seed) => simulate(name, 7 + 3 * seed, seed));
    const sum = (key: keyof Seen) => all.reduce((total, seen) => total + seen[key], 0);
    expect(sum("hits")).toBeGreaterThan(50);
    expect(sum("copies")).toBeGreaterThan(20);
    expect(sum("refusals")).toBeGreaterThan(50);
    expect(sum("evictions")).toBeGreaterThan(50);
    expect(sum("recomputed") > 0).toBe(name.startsWith("Prefix LM"));
    expect(sum("givenBack") > 0).toBe(name.includes("windows"));
  });

  test("a roomy pool finds all that was ever committed", () => {
    const seen = simulate(name, roomy.blockCount, 4);
    expect(seen.hits).toBeGreaterThan(40);
    expect(seen.evictions).toBe(0);
  });
});

test("without reuse nothing is found and nothing is kept", () => {
  const policy = aggregate([[causal, windowed]], { prefixCaching: false });
  const simulation = new KvSimulation({ policy, blockCounts: [20, 20], seed: 5, idsMax: 20, isRoomy: true });
  simulation.run(operations);
  expect(simulation.seen).toMatchObject({ hits: 0, evictions: 0 });
});

test("the same seed gives the same integers", () => {
  const draw = (seed: number) => Array.from({ length: 8 }, seededIntegers(seed).bind(null, 100));
  expect(draw(7)).toEqual(draw(7));
  expect(draw(7)).not.toEqual(draw(8));
});
