// One of the workers of `workers.test.ts`: builds layers as a model would, and reports their KV specs.
import { Attention, type AttentionOptions } from "../../../src/engine/layers/attention.ts";
import { Linear } from "../../../src/engine/layers/linear.ts";
import { PrefillPrefixLMAttention } from "../../../src/engine/layers/prefill-prefix-lm-attention.ts";

/** For each layer, whether it reads its prompt in both directions. */
export type LayersMessage = readonly boolean[];

const weight = new Linear({
  name: "w",
  dtype: "f32",
  shape: [8, 8],
  buffer: { id: 0, gpu: {} as GPUBuffer },
  offset: 0,
  size: 256,
});

function makeLayer(isPrefixLm: boolean, slot: number): Attention {
  const heads = { heads: 4, kvHeads: 2, headDim: 16, scale: 0.25 };
  const options: AttentionOptions = {
    attentionType: "decoder",
    slot,
    projection: weight,
    output: weight,
    ...heads,
  };
  return isPrefixLm ? new PrefillPrefixLMAttention(options) : new Attention(options);
}

globalThis.addEventListener("message", ({ data }: MessageEvent<LayersMessage>) => {
  const layers = data.map((isPrefixLm, slot) => makeLayer(isPrefixLm, slot));
  postMessage(layers.map((layer) => layer.getKvCacheSpec({ blockSize: 16, dtype: "f16" })));
});
