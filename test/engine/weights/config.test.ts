import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "bun:test";
import { readModelConfig, type RopeSpec } from "../../../src/engine/weights/config.ts";
import { withTempDir } from "../../support/checkpoint.ts";
import { shared } from "../../support/shared.ts";
import { changedConfig, parseConfig } from "./changed-config.ts";
import { COMMON, EXPECTED, rope } from "./expected-configs.ts";

describe("the checkpoints at hand", () => {
  for (const [folder, expected] of Object.entries(EXPECTED)) {
    test(folder, async () => expect(await readModelConfig(shared(folder))).toEqual(expected));
  }
});

describe("HRM-Text", () => {
  const FOLDER = "reference/tiny-hrm-text";

  test("without num_layers_per_stack, num_hidden_layers is the count per stack; older fields may be absent", async () => {
    const old = changedConfig(FOLDER, {
      num_layers_per_stack: undefined,
      num_hidden_layers: 2,
      num_key_value_heads: undefined,
      prefix_lm: undefined,
      head_dim: undefined,
      rope_parameters: undefined,
      rope_theta: 10_000,
    });
    expect(await parseConfig(old, {})).toEqual(EXPECTED[FOLDER]);
  });

  test("the embedding's factor is 1 / initializer_range where the file has no other", async () => {
    const { embeddingScale } = await parseConfig(changedConfig(FOLDER, { embedding_scale: null }));
    expect(embeddingScale).toBe(50);
  });

  test("a causal checkpoint of the family says so", async () => {
    const { hrm } = await parseConfig(changedConfig(FOLDER, { prefix_lm: false }));
    expect(hrm?.prefixLm).toBe(false);
  });
});

describe("per-architecture rules", () => {
  test("biases", async () => {
    const biases = async (folder: string) => {
      const config = changedConfig(`reference/${folder}`, { attention_bias: true, mlp_bias: true });
      const { qkvBias, outputBias, mlpBias } = await parseConfig(config);
      return [qkvBias, outputBias, mlpBias];
    };
    expect(await biases("tiny-llama")).toEqual([true, true, true]);
    expect(await biases("tiny-smollm3")).toEqual([true, true, true]);
    expect(await biases("tiny-hrm-text")).toEqual([true, true, true]);
    expect(await biases("tiny-qwen3")).toEqual([true, true, false]);
    expect(await biases("tiny-gemma3")).toEqual([true, true, false]);
    expect(await biases("tiny-qwen2")).toEqual([true, false, false]);
    expect(await biases("tiny-mistral")).toEqual([false, false, false]);
    expect(await biases("tiny-phi3")).toEqual([false, false, false]);
  });

  test("defaults of fields that older files leave out", async () => {
    const absent = { rms_norm_eps: undefined, tie_word_embeddings: undefined };
    const defaults = async (folder: string) => {
      const { normEps, tieWordEmbeddings } = await parseConfig(changedConfig(`reference/${folder}`, absent));
      return [normEps, tieWordEmbeddings];
    };
    expect(await defaults("tiny-llama")).toEqual([1e-6, false]);
    expect(await defaults("tiny-qwen3")).toEqual([1e-6, false]);
    expect(await defaults("tiny-phi3")).toEqual([1e-5, false]);
    expect(await defaults("tiny-gemma3")).toEqual([1e-6, true]);
    expect(await defaults("tiny-smollm3")).toEqual([1e-6, true]);
  });

  test("Llama without grouped heads or a head_dim", async () => {
    const config = changedConfig("reference/tiny-llama", { num_key_value_heads: undefined, head_dim: null });
    const { kvHeads, headDim } = await parseConfig(config);
    expect([kvHeads, headDim]).toEqual([4, 16]);
  });

  test("Gemma's soft caps and its attention scale, which is not the head's", async () => {
    const changes = { attn_logit_softcapping: 50, final_logit_softcapping: 30, query_pre_attn_scalar: 168 };
    const config = await parseConfig(changedConfig("reference/tiny-gemma3", changes));
    expect([config.attnSoftCap, config.finalSoftCap, config.attentionScale]).toEqual([50, 30, 168 ** -0.5]);
  });
});

describe("multimodal Gemma 3", () => {
  test("the text part of a full file equals the text model's file", async () => {
    const inner = changedConfig("reference/tiny-gemma3");
    const outer = {
      model_type: "gemma3",
      text_config: inner,
      vision_config: { hidden_size: 8 },
      vocab_size: 1,
    };
    const { eosTokenIds, ...expected } = EXPECTED["reference/tiny-gemma3"];
    expect(await parseConfig(outer)).toEqual({ ...expected, eosTokenIds });
  });

  test("a sparse text part, as of google/gemma-3-4b-it, means the defaults of its class", async () => {
    const config = await parseConfig({
      architectures: ["Gemma3ForConditionalGeneration"],
      eos_token_id: [1, 106],
      model_type: "gemma3",
      text_config: {
        hidden_size: 2560,
        intermediate_size: 10240,
        model_type: "gemma3_text",
        num_hidden_layers: 34,
        rope_scaling: { factor: 8, rope_type: "linear" },
        sliding_window: 1024,
      },
    });
    const { layers: all, ...rest } = config;
    expect(rest).toEqual({
      ...COMMON,
      architecture: "gemma3_text",
      hiddenSize: 2560,
      intermediateSize: 10240,
      queryHeads: 8,
      kvHeads: 4,
      headDim: 256,
      vocabSize: 262_208,
      maxPositions: 131_072,
      activation: "gelu-tanh",
      attentionScale: 1 / 16,
      embeddingScale: Math.sqrt(2560),
      tieWordEmbeddings: true,
      layerCount: 34,
      eosTokenIds: [1, 106],
      bosTokenId: null,
    });
    const full = all.flatMap(({ slidingWindow }, i) => (slidingWindow === null ? [i] : []));
    expect(full).toEqual([5, 11, 17, 23, 29]);
    const global: RopeSpec = { ...rope(1_000_000, 256, 131_072), type: "linear", factor: 8 };
    expect(all[5]).toEqual({ slidingWindow: null, rope: global });
    expect(all[6]).toEqual({ slidingWindow: 1024, rope: rope(10_000, 256, 131_072) });
  });
});

describe("generation_config.json", () => {
  const FOLDER = "reference/tiny-llama";

  test.each([
    [undefined, undefined, []],
    [7, undefined, [7]],
    [[7, 8], undefined, [7, 8]],
    [7, {}, [7]],
    [7, { eos_token_id: null }, [7]],
    [7, { eos_token_id: 9 }, [9]],
    [7, { eos_token_id: [9, 7] }, [9, 7]],
  ] as const)(
    "config says %j, generation_config %j: the answer ends at %j",
    async (own, generation, expected) => {
      const config = changedConfig(FOLDER, { eos_token_id: own });
      const { eosTokenIds } = await parseConfig(config, generation);
      expect(eosTokenIds).toEqual([...expected]);
    },
  );

  test("sampling defaults", async () => {
    const sampling = async (generation: object) =>
      (await parseConfig(changedConfig(FOLDER), generation)).defaultSampling;
    const stated = { do_sample: true, temperature: 0.6, top_p: 0.9, top_k: 20, min_p: 0.1 };
    expect(await sampling(stated)).toEqual({ temperature: 0.6, topP: 0.9, topK: 20, minP: 0.1 });
    const { temperature } = await sampling({ ...stated, do_sample: false });
    expect(temperature).toBe(0);
    expect(await sampling({ temperature: null })).toEqual({ temperature: 1, topP: 1, topK: 0, minP: 0 });
  });

  test("a wrong value is named", async () => {
    await withTempDir(async (dir) => {
      writeFileSync(join(dir, "config.json"), JSON.stringify(changedConfig(FOLDER)));
      writeFileSync(join(dir, "generation_config.json"), '{"top_p": 3}');
      const message = await readModelConfig(dir).then(() => "", String);
      expect(message).toContain("generation_config.json, top_p: expected a number from 0 to 1, got 3");
    });
  });
});
