/** What the given checkpoints' configurations mean, written out by hand. */
import type { ModelConfig, RopeSpec } from "../../../src/engine/weights/config.ts";

export function rope(theta: number, rotaryDim: number, originalMaxPositions = 256): RopeSpec {
  const neutral = { factor: 1, lowFreqFactor: 1, highFreqFactor: 4 };
  return { type: "default", theta, rotaryDim, originalMaxPositions, ...neutral };
}

const layers = (layerCount: number, spec: RopeSpec | null, slidingWindow: number | null = null) =>
  Array.from({ length: layerCount }, () => ({ slidingWindow, rope: spec }));

const LLAMA3 = {
  type: "llama3",
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPositions: 64,
} as const;

/** What the reference checkpoints have in common. */
export const COMMON = {
  hiddenSize: 64,
  intermediateSize: 160,
  queryHeads: 4,
  kvHeads: 2,
  headDim: 16,
  vocabSize: 320,
  maxPositions: 256,
  normEps: 1e-6,
  activation: "silu",
  qkvBias: false,
  outputBias: false,
  mlpBias: false,
  attentionScale: 0.25,
  attnSoftCap: null,
  finalSoftCap: null,
  embeddingScale: 1,
  tieWordEmbeddings: false,
  eosTokenIds: [2],
  bosTokenId: 1,
  defaultSampling: { temperature: 1, topP: 1, topK: 0, minP: 0 },
  hrm: null,
} as const;

const HRM = { queryHeads: 4, kvHeads: 4, architecture: "hrm_text" } as const;

export const EXPECTED: Readonly<Record<string, ModelConfig>> = {
  "reference/tiny-hrm-text": {
    ...COMMON,
    ...HRM,
    queryHeads: 2,
    kvHeads: 2,
    headDim: 32,
    attentionScale: 32 ** -0.5,
    embeddingScale: 8,
    layerCount: 16,
    layers: layers(16, rope(10_000, 32)),
    hrm: { layersPerStack: 2, highCycles: 2, lowCycles: 3, prefixLm: true },
  },
  "reference/tiny-hrm-text-b": {
    ...COMMON,
    ...HRM,
    hiddenSize: 96,
    headDim: 24,
    attentionScale: 24 ** -0.5,
    embeddingScale: 3.5,
    layerCount: 9,
    layers: layers(9, rope(10_000, 24)),
    hrm: { layersPerStack: 3, highCycles: 1, lowCycles: 2, prefixLm: true },
  },
  "models/hrm-text-tiny": {
    ...COMMON,
    ...HRM,
    hiddenSize: 256,
    intermediateSize: 768,
    headDim: 64,
    vocabSize: 8192,
    maxPositions: 512,
    attentionScale: 0.125,
    embeddingScale: 16,
    layerCount: 12,
    layers: layers(12, rope(10_000, 64, 512)),
    hrm: { layersPerStack: 2, highCycles: 2, lowCycles: 2, prefixLm: true },
    eosTokenIds: [11],
    bosTokenId: 6,
    defaultSampling: { temperature: 0, topP: 1, topK: 0, minP: 0 },
  },
  "models/tinystories-656k": {
    ...COMMON,
    architecture: "llama",
    hiddenSize: 128,
    intermediateSize: 384,
    queryHeads: 8,
    kvHeads: 4,
    vocabSize: 2048,
    maxPositions: 512,
    tieWordEmbeddings: true,
    layerCount: 2,
    layers: layers(2, rope(10_000, 16, 512)),
  },
  "reference/tiny-llama": {
    ...COMMON,
    architecture: "llama",
    tieWordEmbeddings: true,
    layerCount: 3,
    layers: layers(3, { ...LLAMA3, theta: 500_000, rotaryDim: 16 }),
  },
  "reference/tiny-mistral": {
    ...COMMON,
    architecture: "mistral",
    layerCount: 3,
    layers: layers(3, rope(10_000, 16), 16),
  },
  "reference/tiny-qwen2": {
    ...COMMON,
    architecture: "qwen2",
    qkvBias: true,
    layerCount: 3,
    layers: layers(3, rope(10_000, 16)),
    eosTokenIds: [],
    bosTokenId: null,
  },
  "reference/tiny-qwen3": {
    ...COMMON,
    architecture: "qwen3",
    headDim: 32,
    attentionScale: 32 ** -0.5,
    tieWordEmbeddings: true,
    layerCount: 3,
    layers: layers(3, rope(10_000, 32)),
    eosTokenIds: [],
    bosTokenId: null,
  },
  "reference/tiny-gemma3": {
    ...COMMON,
    architecture: "gemma3_text",
    kvHeads: 1,
    headDim: 32,
    activation: "gelu-tanh",
    attentionScale: 32 ** -0.5,
    embeddingScale: 8,
    tieWordEmbeddings: true,
    layerCount: 7,
    layers: [
      ...layers(5, rope(10_000, 32), 16),
      ...layers(1, rope(1_000_000, 32)),
      ...layers(1, rope(10_000, 32), 16),
    ],
    eosTokenIds: [1],
    bosTokenId: 2,
  },
  "reference/tiny-phi3": {
    ...COMMON,
    architecture: "phi3",
    layerCount: 3,
    layers: layers(3, rope(10_000, 16)),
    eosTokenIds: [32_000],
  },
  "reference/tiny-smollm3": {
    ...COMMON,
    architecture: "smollm3",
    tieWordEmbeddings: true,
    layerCount: 4,
    layers: [...layers(3, rope(2_000_000, 16)), ...layers(1, null)],
    eosTokenIds: [128_001],
    bosTokenId: 128_000,
  },
};
