/**
 * The fields of `config.json` that are read, as they stand in the file, and which model types are served.
 *
 * Both generations of the format are taken: transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and
 * `rope_scaling`. Source of every default below: `configuration_<type>.py` of transformers 4.50 to 5.17. A default
 * is used only where files of that type were written without the field; the rest the file must say.
 */
import { z } from "zod";
import { checked } from "./json-file.ts";

export const ARCHITECTURES = [
  "hrm_text",
  "llama",
  "mistral",
  "qwen2",
  "qwen3",
  "gemma3_text",
  "phi3",
  "smollm3",
] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

// Messages are the "expected" half of an error.
const count = z.int("a positive integer").positive("a positive integer");
const positive = z.number("a positive number").positive("a positive number");
const tokenId = z.int("a token id").nonnegative("a token id");
const flag = z.boolean("true or false");
const section = z.record(z.string(), z.unknown(), "an object");

/** `eos_token_id` is one id or several. */
export const tokenIds = z
  .union([tokenId, z.array(tokenId)], "a token id or a list of them")
  .nullish()
  .transform((ids) => (ids === null || ids === undefined ? null : [ids].flat()));

const rawConfigSchema = z.object(
  {
    hidden_size: count,
    intermediate_size: count,
    num_hidden_layers: count,
    num_attention_heads: count,
    num_key_value_heads: count.nullish(),
    head_dim: count.nullish(),
    vocab_size: count,
    max_position_embeddings: count,
    rms_norm_eps: positive.nullish(),
    tie_word_embeddings: flag.nullish(),
    hidden_act: z.string("the name of an activation").nullish(),
    hidden_activation: z.string("the name of an activation").nullish(),
    attention_bias: flag.nullish(),
    mlp_bias: flag.nullish(),
    bos_token_id: tokenId.nullish(),
    eos_token_id: tokenIds,
    quantization_config: z.unknown().optional(),

    sliding_window: count.nullish(),
    use_sliding_window: flag.nullish(),
    max_window_layers: z.int("a layer number").nonnegative("a layer number").nullish(),
    layer_types: z.array(z.string("the name of a layer type"), "a list of layer types").nullish(),
    _sliding_window_pattern: count.nullish(),
    sliding_window_pattern: count.nullish(),

    rope_parameters: section.nullish(),
    rope_scaling: section.nullish(),
    rope_theta: positive.nullish(),
    rope_local_base_freq: positive.nullish(),
    partial_rotary_factor: positive.nullish(),
    original_max_position_embeddings: count.nullish(),
    no_rope_layers: z.array(z.union([z.literal(0), z.literal(1)], "0 or 1"), "a list of 0 and 1").nullish(),
    no_rope_layer_interval: count.nullish(),

    query_pre_attn_scalar: positive.nullish(),
    attn_logit_softcapping: positive.nullish(),
    final_logit_softcapping: positive.nullish(),
    use_bidirectional_attention: z.unknown().optional(),

    embedding_scale: positive.nullish(),
    initializer_range: positive.nullish(),
    H_cycles: count.nullish(),
    L_cycles: count.nullish(),
    num_layers_per_stack: count.nullish(),
    prefix_lm: flag.nullish(),
  },
  "an object",
);

/** A checked `config.json` with the name of the file it came from, for messages. */
export type RawConfig = z.output<typeof rawConfigSchema> & { file: string; architecture: Architecture };

/**
 * What transformers' Gemma3TextConfig takes for granted. A multimodal "gemma3" file nests its text part, and nested
 * parts are written without the fields that equal these (google/gemma-3-4b-it: no head count, no vocabulary size).
 */
const NESTED_GEMMA3_DEFAULTS = {
  vocab_size: 262_208,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  max_position_embeddings: 131_072,
  hidden_activation: "gelu_pytorch_tanh",
  query_pre_attn_scalar: 256,
  sliding_window: 4096,
  rope_theta: 1_000_000,
  rope_local_base_freq: 10_000,
};

const SUPPORTED = [...ARCHITECTURES, "gemma3"].join(", ");
const modelType = z.enum([...ARCHITECTURES, "gemma3"], `one of ${SUPPORTED}`);
const outerSchema = z.looseObject({ model_type: modelType }, "an object");
const nestingSchema = z.object({ text_config: section });

/** Checks the fields of a parsed `config.json`; `file` is its path for messages. Throws `CheckpointError`. */
export function parseRawConfig(value: unknown, file: string): RawConfig {
  const { model_type: type } = checked(outerSchema, value, { file });
  if (type !== "gemma3") return { ...checked(rawConfigSchema, value, { file }), file, architecture: type };
  const { text_config: inner } = checked(nestingSchema, value, { file });
  const { bos_token_id, eos_token_id, tie_word_embeddings } = value as Record<string, unknown>;
  const outer = { bos_token_id, eos_token_id, tie_word_embeddings };
  const innerFile = `${file}, text_config`;
  const text = checked(
    rawConfigSchema,
    { ...NESTED_GEMMA3_DEFAULTS, ...outer, ...inner },
    { file: innerFile },
  );
  return { ...text, file: innerFile, architecture: "gemma3_text" };
}
