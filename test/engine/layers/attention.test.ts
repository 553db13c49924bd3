import { describe, expect, test } from "bun:test";
import { Attention, type AttentionOptions, causalMetadata } from "../../../src/engine/layers/attention.ts";
import { Linear } from "../../../src/engine/layers/linear.ts";
import {
  neverCausal,
  PrefillPrefixLMAttention,
} from "../../../src/engine/layers/prefill-prefix-lm-attention.ts";
import type { Tensor } from "../../../src/gpu/tensor.ts";

const weight: Tensor = {
  name: "w",
  dtype: "f32",
  shape: [8, 8],
  buffer: { id: 0, gpu: {} as GPUBuffer },
  offset: 0,
  size: 256,
};

function options(changes: Partial<AttentionOptions> = {}): AttentionOptions {
  const linear = new Linear(weight);
  return {
    attentionType: "decoder",
    slot: 0,
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    scale: 0.25,
    projection: linear,
    output: linear,
    ...changes,
  };
}

const cache = { blockSize: 16, dtype: "f16" } as const;
const full = { kind: "full-attention", blockSize: 16, kvHeads: 2, headDim: 16, dtype: "f16" };

describe("getKvCacheSpec", () => {
  test("ordinary attention is causal", () => {
    expect(new Attention(options()).getKvCacheSpec(cache)).toEqual({ ...full, nonCausal: false } as never);
  });

  test("prefix attention gives the same spec, marked non-causal", () => {
    expect(new PrefillPrefixLMAttention(options()).getKvCacheSpec(cache)).toEqual({
      ...full,
      nonCausal: true,
    } as never);
  });

  test("a spec of another kind stays as it is", () => {
    const windowed = options({ slidingWindow: 8 });
    const spec = new Attention(windowed).getKvCacheSpec(cache);
    expect(spec.kind).toBe("sliding-window");
    expect(new PrefillPrefixLMAttention(windowed).getKvCacheSpec(cache)).toEqual(spec);
  });

  test("survives a thread boundary", () => {
    const spec = new PrefillPrefixLMAttention(options()).getKvCacheSpec(cache);
    expect(structuredClone(spec)).toEqual(spec);
  });
});

describe("PrefillPrefixLMAttention", () => {
  test.each(["encoder", "encoder-only", "encoder-decoder"])("refuses %s attention", (attentionType) => {
    const make = () => new PrefillPrefixLMAttention(options({ attentionType: attentionType as never }));
    expect(make).toThrow(`expected decoder attention, got ${attentionType}`);
  });

  test("its metadata carries the prefix; ordinary metadata never does", () => {
    const sequence = { prefixLength: 5, contextLength: 9 };
    expect(new Attention(options()).metadataBuilder.build(sequence)).toEqual({
      prefixLength: 0,
      contextLength: 9,
    });
    const { metadataBuilder } = new PrefillPrefixLMAttention(options());
    expect(metadataBuilder.kind).toBe("prefix");
    expect(metadataBuilder.build(sequence)).toEqual(sequence);
  });

  test("wrapping keeps what the inner builder says of everything else", () => {
    const inner = { ...causalMetadata, build: () => ({ prefixLength: 0, contextLength: 7 }) };
    expect(neverCausal(inner).build({ prefixLength: 3, contextLength: 9 })).toEqual({
      prefixLength: 3,
      contextLength: 7,
    });
  });
});
