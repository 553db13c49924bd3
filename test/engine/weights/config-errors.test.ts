import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { CheckpointError } from "../../../src/engine/errors.ts";
import { readModelConfig } from "../../../src/engine/weights/config.ts";
import { withTempDir } from "../../support/checkpoint.ts";
import { changedConfig, type Changes } from "./changed-config.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

/** What reading a folder with this `config.json` says after "Cannot read <folder>/". */
async function configError(text: string | undefined): Promise<string> {
  return withTempDir(async (dir) => {
    if (text !== undefined) writeFileSync(join(dir, "config.json"), text);
    const error: unknown = await readModelConfig(dir).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(CheckpointError);
    return (error as Error).message.replace(`Cannot read ${dir}/`, "");
  });
}

const changedError = (folder: string, changes: Changes) =>
  configError(JSON.stringify(changedConfig(`reference/${folder}`, changes)));

describe("a file that cannot be read", () => {
  test("absent, no JSON, no object, a field twice", async () => {
    expect(await configError(undefined)).toContain("config.json: expected a readable file, got ");
    expect(await configError("{")).toContain("config.json: expected JSON, got ");
    expect(await configError("[]")).toBe("config.json: expected an object, got []");
    const twice = '{"model_type":"llama","model_type":"qwen3"}';
    expect(await configError(twice)).toBe(
      'config.json, "model_type": expected each key once, got the key twice',
    );
  });

  test("too long", async () => {
    expect(await configError(" ".repeat(4_000_001))).toBe(
      "config.json: expected at most 4000000 bytes, got 4000001 bytes",
    );
  });

  test("an architecture that is not served, with those that are", async () => {
    const served = "hrm_text, llama, mistral, qwen2, qwen3, gemma3_text, phi3, smollm3, gemma3";
    const found = await changedError("tiny-llama", { model_type: "mamba" });
    expect(found).toBe(`config.json, model_type: expected one of ${served}, got "mamba"`);
    expect(await configError("{}")).toBe(`config.json, model_type: expected one of ${served}, got nothing`);
  });

  test("a nested field is named with its place", async () => {
    const text_config = changedConfig("reference/tiny-gemma3", { hidden_size: "big" });
    const found = await configError(JSON.stringify({ model_type: "gemma3", text_config }));
    expect(found).toBe('config.json, text_config, hidden_size: expected a positive integer, got "big"');
  });
});

describe("a field that is missing or wrong", () => {
  const REQUIRED = [
    ["tiny-llama", "hidden_size"],
    ["tiny-llama", "intermediate_size"],
    ["tiny-llama", "num_hidden_layers"],
    ["tiny-llama", "num_attention_heads"],
    ["tiny-llama", "vocab_size"],
    ["tiny-llama", "max_position_embeddings"],
    ["tiny-llama", "hidden_act"],
    ["tiny-mistral", "num_key_value_heads"],
    ["tiny-qwen3", "num_key_value_heads"],
    ["tiny-qwen3", "head_dim"],
    ["tiny-gemma3", "head_dim"],
    ["tiny-gemma3", "hidden_activation"],
    ["tiny-gemma3", "query_pre_attn_scalar"],
    ["tiny-gemma3", "sliding_window"],
    ["tiny-hrm-text", "H_cycles"],
    ["tiny-hrm-text", "L_cycles"],
  ] as const;
  test.each(REQUIRED)("%s without %s", async (folder, field) => {
    const found = await changedError(folder, { [field]: undefined });
    expect(found.startsWith(`config.json, ${field}: expected `)).toBe(true);
    expect(found.endsWith("got nothing") || field === "sliding_window").toBe(true);
  });

  const WRONG = [
    ["tiny-llama", { hidden_size: 64.5 }, "hidden_size: expected a positive integer, got 64.5"],
    ["tiny-llama", { num_hidden_layers: 0 }, "num_hidden_layers: expected a positive integer, got 0"],
    [
      "tiny-llama",
      { num_hidden_layers: 1e9 },
      "num_hidden_layers: expected at most 4096 layers, got 1000000000",
    ],
    ["tiny-llama", { rms_norm_eps: "1e-6" }, 'rms_norm_eps: expected a positive number, got "1e-6"'],
    ["tiny-llama", { eos_token_id: [2, -1] }, "eos_token_id.1: expected a token id, got -1"],
    ["tiny-llama", { eos_token_id: "2" }, 'eos_token_id: expected a token id or a list of them, got "2"'],
    ["tiny-llama", { tie_word_embeddings: 1 }, "tie_word_embeddings: expected true or false, got 1"],
    [
      "tiny-llama",
      { num_key_value_heads: 3 },
      "num_key_value_heads: expected a divisor of 4 query heads, got 3",
    ],
    ["tiny-qwen2", { hidden_size: 66 }, "hidden_size: expected a multiple of 4 heads, or a head_dim, got 66"],
    ["tiny-llama", { hidden_act: "gelu" }, 'hidden_act: expected silu or gelu_pytorch_tanh, got "gelu"'],
    [
      "tiny-llama",
      { quantization_config: { quant_method: "fp8" } },
      'quantization_config: expected F32, F16 or BF16 weights, got {"quant_method":"fp8"}',
    ],
    [
      "tiny-gemma3",
      { use_bidirectional_attention: true },
      "use_bidirectional_attention: expected false (a decoder), got true",
    ],
    [
      "tiny-hrm-text",
      { num_hidden_layers: 15 },
      "num_hidden_layers: expected 16 KV slots (num_layers_per_stack * H_cycles * (L_cycles + 1)), got 15",
    ],
    [
      "tiny-hrm-text",
      { num_key_value_heads: 1 },
      "num_key_value_heads: expected 2, as many as query heads, got 1",
    ],
    [
      "tiny-hrm-text",
      { embedding_scale: null, initializer_range: null },
      "embedding_scale: expected a positive number, or an initializer_range, got null",
    ],
  ] as const;
  test.each(WRONG)("%s with %j", async (folder, changes, message) => {
    expect(await changedError(folder, changes)).toBe(`config.json, ${message}`);
  });
});

describe("layers that do not fit", () => {
  const FULL = "full_attention";
  const LAYERS = [
    ["tiny-qwen2", { layer_types: [FULL] }, "layer_types: expected an entry for each of 3 layers, got 1"],
    [
      "tiny-qwen3",
      { layer_types: [FULL, FULL, "chunked_attention"] },
      'layer_types: expected full_attention or sliding_attention, got "chunked_attention"',
    ],
    [
      "tiny-qwen2",
      { layer_types: [FULL, FULL, "sliding_attention"], sliding_window: 8, use_sliding_window: false },
      "sliding_window: expected a positive integer, since layer_types names sliding_attention, got no window in use",
    ],
    [
      "tiny-qwen2",
      { layer_types: null, sliding_window: 8, use_sliding_window: true, max_window_layers: undefined },
      "max_window_layers: expected a layer number, since use_sliding_window is true, got nothing",
    ],
    [
      "tiny-smollm3",
      { no_rope_layers: [1] },
      "no_rope_layers: expected an entry for each of 4 layers, got 1",
    ],
  ] as const;
  test.each(LAYERS)("%s with %j", async (folder, changes, message) => {
    expect(await changedError(folder, changes)).toBe(`config.json, ${message}`);
  });
});

describe("RoPE that is not served or not whole", () => {
  const types = "expected a RoPE type of default, linear, llama3";
  const llama3 = changedConfig("reference/tiny-llama").rope_parameters as Changes;
  const ROPES = [
    [
      "tiny-qwen3",
      { rope_parameters: { rope_type: "yarn", rope_theta: 1e6, factor: 4 } },
      `rope_parameters: ${types}, got "yarn"`,
    ],
    ["tiny-phi3", { rope_scaling: { type: "longrope" } }, `rope_scaling: ${types}, got "longrope"`],
    ["tiny-llama", { rope_scaling: { type: "dynamic", factor: 2 } }, `rope_scaling: ${types}, got "dynamic"`],
    [
      "tiny-qwen3",
      { rope_parameters: undefined },
      "RoPE, rope_theta: expected a positive number, got nothing",
    ],
    [
      "tiny-hrm-text",
      { rope_parameters: {} },
      "rope_parameters, rope_theta: expected a positive number, got nothing",
    ],
    [
      "tiny-qwen2",
      { rope_scaling: { type: "linear" } },
      "rope_scaling, factor: expected a positive number, got nothing",
    ],
    [
      "tiny-llama",
      { rope_parameters: { ...llama3, low_freq_factor: undefined } },
      "rope_parameters, low_freq_factor: expected a positive number, got nothing",
    ],
    [
      "tiny-llama",
      { rope_parameters: { ...llama3, low_freq_factor: 4 } },
      "rope_parameters, high_freq_factor: expected more than low_freq_factor 4, got 4",
    ],
    [
      "tiny-llama",
      { rope_parameters: { ...llama3, original_max_position_embeddings: undefined } },
      "rope_parameters, original_max_position_embeddings: expected a positive number, got nothing",
    ],
    [
      "tiny-gemma3",
      { rope_parameters: { full_attention: { rope_theta: 1e6 } } },
      "rope_parameters, sliding_attention: expected an object, got nothing",
    ],
    [
      "tiny-gemma3",
      { rope_scaling: { rope_type: "linear", factor: 8 } },
      'rope_scaling: expected none beside rope_parameters by layer type, got {"rope_type":"linear","factor":8}',
    ],
    [
      "tiny-phi3",
      { rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.2 } },
      "partial_rotary_factor: expected an even number of rotated elements in a head of 16, got 3",
    ],
  ] as const;
  test.each(ROPES)("%s with %j", async (folder, changes, message) => {
    expect(await changedError(folder, changes)).toBe(`config.json, ${message}`);
  });
});
