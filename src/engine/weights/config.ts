/**
 * A model's configuration, normalised: one shape for every architecture and both generations of `config.json`, with
 * nothing left to default. What the fields mean for the computation is the models' business.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseRawConfig, type Architecture, type RawConfig } from "./config-schema.ts";
import { parseGenerationConfig, type DefaultSampling, type GenerationDefaults } from "./generation-config.ts";
import { parseHrmConfig, type HrmConfig } from "./hrm-config.ts";
import { checkpointFault, readJsonFile, show } from "./json-file.ts";
import { layerWindows, ropeLayers, type LayerType } from "./layer-config.ts";
import { ropeSpec, type RopeSpec } from "./rope-config.ts";

export type { Architecture } from "./config-schema.ts";
export type { HrmConfig } from "./hrm-config.ts";
export type { RopeSpec, RopeType } from "./rope-config.ts";

export type Activation = "silu" | "gelu-tanh";

export interface LayerConfig {
  /** The query at q sees the keys k with q - k < slidingWindow, itself included; null: all of them. */
  slidingWindow: number | null;
  /** Null: queries and keys are not rotated (NoPE). */
  rope: RopeSpec | null;
}

interface CommonConfig {
  hiddenSize: number;
  intermediateSize: number;
  /** Attention layers a token passes, each with its KV slot; an HRM's weight layers pass several times. */
  layerCount: number;
  /** One entry for each of `layerCount`. */
  layers: readonly LayerConfig[];
  queryHeads: number;
  /** Divides `queryHeads`. */
  kvHeads: number;
  headDim: number;
  vocabSize: number;
  /** Most tokens of a sequence. */
  maxPositions: number;
  normEps: number;
  tieWordEmbeddings: boolean;
  activation: Activation;
  /** Bias of the query, key and value projections, and of HRM's gate. */
  qkvBias: boolean;
  /** Bias of the projection behind the attention. */
  outputBias: boolean;
  mlpBias: boolean;
  /** Factor of query times key. */
  attentionScale: number;
  /** c in c * tanh(x / c) over attention scores, and over logits; null: none. */
  attnSoftCap: number | null;
  finalSoftCap: number | null;
  /** Factor of the embedding's output. */
  embeddingScale: number;
  /** Any of them ends a generation; empty when the checkpoint names none. May lie outside the vocabulary. */
  eosTokenIds: readonly number[];
  bosTokenId: number | null;
  defaultSampling: DefaultSampling;
}

export type ModelConfig = CommonConfig &
  (
    | { architecture: "hrm_text"; hrm: HrmConfig }
    | { architecture: Exclude<Architecture, "hrm_text">; hrm: null }
  );

/** Longest configuration file accepted. */
const CONFIG_BYTES_MAX = 4_000_000;
/** Most attention layers a token may pass; HRM-Text-1B has 128. */
const LAYERS_MAX = 4096;
/** Class defaults of transformers; files written by it always have the field. */
const NORM_EPS_DEFAULT = 1e-6;
const PHI3_NORM_EPS_DEFAULT = 1e-5;

/** Reads `config.json` and, where there is one, `generation_config.json`. Throws `CheckpointError`. */
export async function readModelConfig(dir: string): Promise<ModelConfig> {
  const file = join(dir, "config.json");
  const generationFile = join(dir, "generation_config.json");
  const raw = parseRawConfig(await readJsonFile(file, CONFIG_BYTES_MAX), file);
  const generation = existsSync(generationFile) ? await readJsonFile(generationFile, CONFIG_BYTES_MAX) : null;
  return normalise(raw, parseGenerationConfig(generation, generationFile));
}

function normalise(raw: RawConfig, generation: GenerationDefaults): ModelConfig {
  refuseUnserved(raw);
  const { architecture } = raw;
  const heads = headShape(raw);
  if (architecture === "hrm_text") {
    const { layerCount, embeddingScale, hrm } = parseHrmConfig(raw);
    return { ...common({ raw, generation, heads, layerCount, embeddingScale }), architecture, hrm };
  }
  const embeddingScale = architecture === "gemma3_text" ? Math.sqrt(raw.hidden_size) : 1;
  const layerCount = raw.num_hidden_layers;
  return { ...common({ raw, generation, heads, layerCount, embeddingScale }), architecture, hrm: null };
}

interface Parts {
  raw: RawConfig;
  generation: GenerationDefaults;
  heads: HeadShape;
  layerCount: number;
  embeddingScale: number;
}

function common({ raw, generation, heads, layerCount, embeddingScale }: Parts): CommonConfig {
  return {
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    layerCount,
    layers: layerConfigs(raw, layerCount, heads.headDim),
    ...heads,
    vocabSize: raw.vocab_size,
    maxPositions: raw.max_position_embeddings,
    normEps: raw.rms_norm_eps ?? (raw.architecture === "phi3" ? PHI3_NORM_EPS_DEFAULT : NORM_EPS_DEFAULT),
    tieWordEmbeddings: raw.tie_word_embeddings ?? isTiedByDefault(raw.architecture),
    activation: activation(raw),
    ...biases(raw),
    attentionScale: attentionScale(raw, heads.headDim),
    attnSoftCap: raw.attn_logit_softcapping ?? null,
    finalSoftCap: raw.final_logit_softcapping ?? null,
    embeddingScale,
    eosTokenIds: generation.eosTokenIds ?? raw.eos_token_id ?? [],
    bosTokenId: raw.bos_token_id ?? generation.bosTokenId,
    defaultSampling: generation.sampling,
  };
}

function refuseUnserved({ file, quantization_config, use_bidirectional_attention }: RawConfig): void {
  if (quantization_config !== null && quantization_config !== undefined) {
    const found = show(quantization_config);
    throw checkpointFault({ file, part: "quantization_config", expected: "F32, F16 or BF16 weights", found });
  }
  if (use_bidirectional_attention !== undefined && use_bidirectional_attention !== null) {
    if (use_bidirectional_attention === false) return;
    const [expected, found] = ["false (a decoder)", show(use_bidirectional_attention)];
    throw checkpointFault({ file, part: "use_bidirectional_attention", expected, found });
  }
}

interface HeadShape {
  queryHeads: number;
  kvHeads: number;
  headDim: number;
}

function headShape(raw: RawConfig): HeadShape {
  const { file, num_attention_heads: queryHeads, num_key_value_heads: kvHeads = implicitKvHeads(raw) } = raw;
  const heads = { queryHeads, kvHeads: kvHeads ?? queryHeads, headDim: headDim(raw) };
  if (queryHeads % heads.kvHeads !== 0) {
    const [expected, found] = [`a divisor of ${queryHeads} query heads`, `${heads.kvHeads}`];
    throw checkpointFault({ file, part: "num_key_value_heads", expected, found });
  }
  return heads;
}

/** Old files of these types know no grouped heads; other types' class defaults are no guess to make. */
function implicitKvHeads({ architecture, file, num_attention_heads }: RawConfig): number {
  if (architecture === "llama" || architecture === "phi3" || architecture === "hrm_text")
    return num_attention_heads;
  const found = "nothing";
  throw checkpointFault({ file, part: "num_key_value_heads", expected: "a positive integer", found });
}

function headDim({
  architecture,
  file,
  head_dim,
  hidden_size,
  num_attention_heads: heads,
}: RawConfig): number {
  if (head_dim !== null && head_dim !== undefined) return head_dim;
  // Their heads are not the hidden size's share, so a missing field cannot be derived.
  if (architecture === "qwen3" || architecture === "gemma3_text") {
    throw checkpointFault({ file, part: "head_dim", expected: "a positive integer", found: show(head_dim) });
  }
  if (hidden_size % heads === 0) return hidden_size / heads;
  const expected = `a multiple of ${heads} heads, or a head_dim`;
  throw checkpointFault({ file, part: "hidden_size", expected, found: `${hidden_size}` });
}

function layerConfigs(raw: RawConfig, layerCount: number, headDim: number): LayerConfig[] {
  if (layerCount > LAYERS_MAX) {
    const [expected, found] = [`at most ${LAYERS_MAX} layers`, `${layerCount}`];
    throw checkpointFault({ file: raw.file, part: "num_hidden_layers", expected, found });
  }
  const usesRope = ropeLayers(raw, layerCount);
  const specs = new Map<LayerType, RopeSpec>();
  const specOf = (type: LayerType): RopeSpec => {
    const spec = specs.get(type) ?? ropeSpec(raw, type, headDim);
    specs.set(type, spec);
    return spec;
  };
  return layerWindows(raw, layerCount).map(({ type, slidingWindow }, i) => ({
    slidingWindow,
    rope: usesRope[i] ? specOf(type) : null,
  }));
}

/** A class default of transformers, and a field that its older files leave out when it is the default. */
function isTiedByDefault(architecture: Architecture): boolean {
  return architecture === "gemma3_text" || architecture === "smollm3";
}

function activation({ file, architecture, hidden_act, hidden_activation }: RawConfig): Activation {
  const part = architecture === "gemma3_text" ? "hidden_activation" : "hidden_act";
  const name = part === "hidden_act" ? hidden_act : hidden_activation;
  if (name === "silu" || name === "swish") return "silu";
  if (name === "gelu_pytorch_tanh") return "gelu-tanh";
  throw checkpointFault({ file, part, expected: "silu or gelu_pytorch_tanh", found: show(name) });
}

/** Qwen2 has biases on q, k and v by its code; Mistral, Phi 3 and Gemma's MLP have none whatever the file says. */
function biases({ architecture, attention_bias, mlp_bias }: RawConfig) {
  const attention = attention_bias === true;
  const mlp = mlp_bias === true;
  switch (architecture) {
    case "qwen2":
      return { qkvBias: true, outputBias: false, mlpBias: false };
    case "mistral":
    case "phi3":
      return { qkvBias: false, outputBias: false, mlpBias: false };
    case "qwen3":
    case "gemma3_text":
      return { qkvBias: attention, outputBias: attention, mlpBias: false };
    case "hrm_text":
    case "llama":
    case "smollm3":
      return { qkvBias: attention, outputBias: attention, mlpBias: mlp };
  }
}

function attentionScale({ architecture, file, query_pre_attn_scalar }: RawConfig, headDim: number): number {
  if (architecture !== "gemma3_text") return headDim ** -0.5;
  if (query_pre_attn_scalar !== null && query_pre_attn_scalar !== undefined)
    return query_pre_attn_scalar ** -0.5;
  const [part, expected] = ["query_pre_attn_scalar", "a positive number"];
  throw checkpointFault({ file, part, expected, found: show(query_pre_attn_scalar) });
}
