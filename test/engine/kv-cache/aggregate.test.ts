import { describe, expect, test } from "bun:test";
import { aggregate } from "../../../src/engine/kv-cache/aggregate.ts";
import type { FullAttentionSpec, SlidingWindowSpec } from "../../../src/engine/kv-cache/spec.ts";

const size = { blockSize: 16, kvHeads: 2, headDim: 8, dtype: "f16" } as const;
const causal: FullAttentionSpec = { kind: "full-attention", nonCausal: false, ...size };
const nonCausal: FullAttentionSpec = { ...causal, nonCausal: true };
const windowOf = (slidingWindow: number): SlidingWindowSpec => ({
  kind: "sliding-window",
  slidingWindow,
  ...size,
});
/** Keys and values of 16 tokens, 2 heads of 8 values, 2 bytes each. */
const layerBytes = 2 * 16 * 2 * 8 * 2;

describe("policy", () => {
  test("a causal model is cut along tokens and shares blocks", () => {
    expect(aggregate([[causal, causal]])).toEqual({
      groups: [{ window: null, layers: [0, 1] }],
      layerGroups: [0, 0],
      bytesPerBlock: [2 * layerBytes],
      blockSize: 16,
      nonCausal: false,
      prefillCut: "tokens",
      prefixReuse: "blocks",
      notices: [],
    });
  });

  test.each([[{}], [{ chunkedPrefill: true, prefixCaching: true }]])(
    "one non-causal layer in any worker decides for the engine, whatever is wished: %j",
    (wishes) => {
      const policy = aggregate(
        [
          [causal, causal],
          [causal, nonCausal],
        ],
        wishes,
      );
      expect(policy.nonCausal).toBe(true);
      expect(policy.prefillCut).toBe("layers");
      expect(policy.prefixReuse).toBe("whole");
      expect(policy.notices).toEqual([
        "Disabling chunked prefill along tokens: the model has non-causal attention layers. Prompts are cut along layers.",
        "Disabling prefix caching by block: the model has non-causal attention layers. Prefixes are cached whole.",
      ]);
    },
  );

  test("what the user turned off stays off, and needs no notice", () => {
    const off = { chunkedPrefill: false, prefixCaching: false };
    expect(aggregate([[nonCausal]], off)).toMatchObject({
      prefillCut: "layers",
      prefixReuse: "none",
      notices: [],
    });
    expect(aggregate([[causal]], off)).toMatchObject({
      prefillCut: "layers",
      prefixReuse: "none",
      notices: [],
    });
  });
});

describe("groups", () => {
  test("are layers of equal kind and window, in order of their first layer", () => {
    const policy = aggregate([[windowOf(32), causal, windowOf(32), windowOf(8), nonCausal]]);
    expect(policy.groups).toEqual([
      { window: 32, layers: [0, 2] },
      { window: null, layers: [1, 4] },
      { window: 8, layers: [3] },
    ]);
    expect(policy.layerGroups).toEqual([0, 1, 0, 2, 1]);
    expect(policy.bytesPerBlock).toEqual([2 * layerBytes, 2 * layerBytes, layerBytes]);
  });

  test("a layer that keeps all tokens goes with full attention though it looks at few", () => {
    const policy = aggregate([[causal, { ...causal, slidingWindow: 8 }]]);
    expect(policy.groups).toEqual([{ window: null, layers: [0, 1] }]);
  });

  test("a block takes as many bytes as the worker with most heads needs", () => {
    const wide = { ...causal, kvHeads: 6 };
    expect(aggregate([[causal], [wide]]).bytesPerBlock).toEqual([3 * layerBytes]);
  });
});

describe("refuses", () => {
  test("no layers", () => {
    expect(() => aggregate([])).toThrow("no worker reported a layer");
    expect(() => aggregate([[]])).toThrow("no worker reported a layer");
  });

  test("workers that do not hold the same layers", () => {
    expect(() => aggregate([[causal, causal], [causal]])).toThrow("expected 2 layers in worker 1, got 1");
    expect(() => aggregate([[causal], [windowOf(8)]])).toThrow(
      "expected full attention in layer 0 of worker 1, got a window of 8 tokens",
    );
  });

  test("blocks of different sizes", () => {
    expect(() => aggregate([[causal, { ...causal, blockSize: 32 }]])).toThrow(
      "expected blocks of 16 tokens in layer 1 of worker 0, got 32",
    );
  });
});
