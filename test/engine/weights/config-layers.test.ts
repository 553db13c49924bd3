import { describe, expect, test } from "bun:test";
import type { RopeSpec } from "../../../src/engine/weights/config.ts";
import { changedConfig, parseConfig, type Changes } from "./changed-config.ts";

async function windowsOf(folder: string, changes: Changes): Promise<(number | null)[]> {
  const { layers } = await parseConfig(changedConfig(`reference/${folder}`, changes));
  return layers.map(({ slidingWindow }) => slidingWindow);
}

async function ropesOf(folder: string, changes: Changes): Promise<(RopeSpec | null)[]> {
  const { layers } = await parseConfig(changedConfig(`reference/${folder}`, changes));
  return layers.map(({ rope }) => rope);
}

describe("sliding windows", () => {
  test("Mistral: on all layers or on none; 4096 where the file does not say", async () => {
    expect(await windowsOf("tiny-mistral", { sliding_window: null })).toEqual([null, null, null]);
    expect(await windowsOf("tiny-mistral", { sliding_window: undefined })).toEqual([4096, 4096, 4096]);
  });

  test("Phi 3: on all layers when given; Llama: never", async () => {
    expect(await windowsOf("tiny-phi3", { sliding_window: 2047 })).toEqual([2047, 2047, 2047]);
    expect(await windowsOf("tiny-phi3", { sliding_window: undefined })).toEqual([null, null, null]);
    expect(await windowsOf("tiny-llama", { sliding_window: 16 })).toEqual([null, null, null]);
  });

  test.each(["tiny-qwen2", "tiny-qwen3"])(
    "%s: from max_window_layers on, if windows are in use",
    async (folder) => {
      const old = { layer_types: undefined, sliding_window: 8, max_window_layers: 1 };
      expect(await windowsOf(folder, { ...old, use_sliding_window: true })).toEqual([null, 8, 8]);
      expect(await windowsOf(folder, { ...old, use_sliding_window: false })).toEqual([null, null, null]);
      expect(await windowsOf(folder, { ...old, use_sliding_window: undefined })).toEqual([null, null, null]);
      const layer_types = ["sliding_attention", "full_attention", "sliding_attention"];
      expect(await windowsOf(folder, { ...old, layer_types, use_sliding_window: true })).toEqual([
        8,
        null,
        8,
      ]);
    },
  );

  test("SmolLM3: on layers without RoPE", async () => {
    const old = { layer_types: undefined, sliding_window: 8, use_sliding_window: true };
    expect(await windowsOf("tiny-smollm3", old)).toEqual([null, null, null, 8]);
  });

  test.each(["sliding_window_pattern", "_sliding_window_pattern"])("Gemma 3: by %s", async (field) => {
    const absent = { layer_types: undefined, _sliding_window_pattern: undefined, num_hidden_layers: 7 };
    expect(await windowsOf("tiny-gemma3", { ...absent, [field]: 3 })).toEqual([
      16,
      16,
      null,
      16,
      16,
      null,
      16,
    ]);
    expect(await windowsOf("tiny-gemma3", absent)).toEqual([16, 16, 16, 16, 16, null, 16]);
  });
});

describe("RoPE of older files", () => {
  const OLD = { rope_parameters: undefined };
  const plain = { type: "default", factor: 1, lowFreqFactor: 1, highFreqFactor: 4 } as const;

  test("flat rope_theta, and none at all in the oldest Llama files", async () => {
    const spec = { ...plain, rotaryDim: 16, originalMaxPositions: 256 };
    const [stated] = await ropesOf("tiny-llama", { ...OLD, rope_theta: 5000, rope_scaling: null });
    expect(stated).toEqual({ ...spec, theta: 5000 });
    const [implicit] = await ropesOf("tiny-llama", OLD);
    expect(implicit).toEqual({ ...spec, theta: 10_000 });
  });

  test.each(["type", "rope_type"])("linear scaling named by %s", async (field) => {
    const rope_scaling = { [field]: "linear", factor: 2.5 };
    const [rope] = await ropesOf("tiny-qwen2", { ...OLD, rope_theta: 10_000, rope_scaling });
    const expected = { ...plain, theta: 10_000, rotaryDim: 16, originalMaxPositions: 256, factor: 2.5 };
    expect(rope).toEqual({ ...expected, type: "linear" });
  });

  test("llama3 scaling equals its newer spelling", async () => {
    const newer = await ropesOf("tiny-llama", {});
    const { rope_theta, ...rope_scaling } = changedConfig("reference/tiny-llama").rope_parameters as Changes;
    expect(await ropesOf("tiny-llama", { ...OLD, rope_theta, rope_scaling })).toEqual(newer);
  });

  test("original_max_position_embeddings beside the section goes before the one inside", async () => {
    const [rope] = await ropesOf("tiny-llama", { original_max_position_embeddings: 32 });
    expect(rope?.originalMaxPositions).toBe(32);
  });

  test("Gemma 3: two bases, and scaling for the full layers only", async () => {
    const bases = { rope_theta: 1e6, rope_local_base_freq: 1e4 };
    expect(await ropesOf("tiny-gemma3", { ...OLD, ...bases })).toEqual(await ropesOf("tiny-gemma3", {}));
    const rope_scaling = { rope_type: "linear", factor: 8 };
    const scaled = await ropesOf("tiny-gemma3", { ...OLD, ...bases, rope_scaling });
    const found = scaled.map((rope) => `${rope?.type} ${rope?.theta} ${rope?.factor}`);
    expect(found).toEqual([
      ...Array<string>(5).fill("default 10000 1"),
      "linear 1000000 8",
      "default 10000 1",
    ]);
  });

  test("part of the head is rotated, by either place of the factor", async () => {
    const rope_parameters = { rope_type: "default", rope_theta: 1e4, partial_rotary_factor: 0.75 };
    const [inside] = await ropesOf("tiny-phi3", { rope_parameters });
    expect(inside?.rotaryDim).toBe(12);
    const [beside] = await ropesOf("tiny-phi3", { ...OLD, rope_theta: 1e4, partial_rotary_factor: 0.5 });
    expect(beside?.rotaryDim).toBe(8);
  });
});

describe("layers without RoPE", () => {
  const rotated = async (changes: Changes) =>
    (await ropesOf("tiny-smollm3", changes)).map((rope) => rope !== null);

  test("by list, and by interval where there is no list", async () => {
    expect(await rotated({ no_rope_layers: [0, 1, 0, 1, 1] })).toEqual([false, true, false, true]);
    expect(await rotated({ no_rope_layers: null, no_rope_layer_interval: 2 })).toEqual([
      true,
      false,
      true,
      false,
    ]);
    const absent = { no_rope_layers: undefined, no_rope_layer_interval: undefined };
    expect(await rotated(absent)).toEqual([true, true, true, false]);
  });

  test("only SmolLM3 has them", async () => {
    const ropes = await ropesOf("tiny-llama", { no_rope_layers: [0, 0, 0] });
    expect(ropes.every((rope) => rope !== null)).toBe(true);
  });
});
