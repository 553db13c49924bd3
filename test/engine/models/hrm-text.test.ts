import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { CheckpointError } from "../../../src/engine/errors.ts";
import { Attention } from "../../../src/engine/layers/attention.ts";
import { PrefillPrefixLMAttention } from "../../../src/engine/layers/prefill-prefix-lm-attention.ts";
import { readWholeFile, type TestTensor, withTempDir, writeShards } from "../../support/checkpoint.ts";
import { rejection } from "../../support/rejection.ts";
import { shared } from "../../support/shared.ts";
import {
  expectSameBits,
  openTestModel,
  promptLogits,
  relativeRms,
  splitRows,
  withChangedConfig,
  withChangedTensors,
} from "../../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const dir = shared("reference/tiny-hrm-text");
const ids = [301, 282, 183, 196, 29, 114, 276, 50, 154, 273, 155, 289, 124];
const whole = { prefixLength: ids.length };
const original = await openTestModel(dir);
const expected = await promptLogits(original, ids, whole);

async function logitsOf(folder: string, prefixLength = ids.length): Promise<Float32Array> {
  return promptLogits(await openTestModel(folder), ids, { prefixLength });
}

/** The names that other tools write. */
function splitNames(tensors: readonly TestTensor[]): TestTensor[] {
  return tensors.flatMap((tensor) => {
    const [, block, kind] = /^(.*layers\.\d+)\.(.*)\.weight$/.exec(tensor.name) ?? [];
    const parts = (prefix: string, names: string[]) =>
      splitRows(
        tensor,
        names.map((name) => ({ name: `${prefix}.${name}.weight`, rows: tensor.shape[0] / names.length })),
      );
    switch (kind) {
      case "attn.gqkv_proj":
        return parts(`${block}.self_attn`, ["gate_proj", "q_proj", "k_proj", "v_proj"]);
      case "attn.o_proj":
        return parts(`${block}.self_attn`, ["o_proj"]);
      case "mlp.gate_up_proj":
        return parts(`${block}.mlp`, ["gate_proj", "up_proj"]);
      default:
        return [tensor];
    }
  });
}

describe("the shapes a checkpoint comes in give the same bits", () => {
  test("the logits are numbers, and not all the same", () => {
    expect(expected.every(Number.isFinite)).toBe(true);
    expect(new Set(expected).size).toBeGreaterThan(1000);
  });

  test("split tensor names", async () => {
    await withChangedTensors(dir, splitNames, async (split) => {
      expect(readWholeFile(join(split, "model.safetensors")).length).toBe(19 + 4 * (3 + 1));
      expectSameBits(await logitsOf(split), expected);
    });
  });

  test("split names with the rows in another order are another model", async () => {
    const other: Record<string, string> = { q_proj: "k_proj", k_proj: "q_proj" };
    const exchanged = (tensors: readonly TestTensor[]) =>
      splitNames(tensors).map((tensor) => ({
        ...tensor,
        name: tensor.name.replace(/[qk]_proj/, (name) => other[name]),
      }));
    await withChangedTensors(dir, exchanged, async (folder) => {
      expect(await logitsOf(folder)).not.toEqual(expected);
    });
  });

  test("shards", async () => {
    await withTempDir(async (sharded) => {
      copyFileSync(join(dir, "config.json"), join(sharded, "config.json"));
      writeShards(sharded, readWholeFile(join(dir, "model.safetensors")), 3);
      expectSameBits(await logitsOf(sharded), expected);
    });
  });

  test("the older configuration, with layers counted per stack and a flat rope_theta", async () => {
    const older = (config: Record<string, unknown>) => {
      config.num_hidden_layers = config.num_layers_per_stack;
      delete config.num_layers_per_stack;
      delete config.rope_parameters;
      delete config.prefix_lm;
      config.rope_theta = 10000;
    };
    await withChangedConfig(dir, older, async (folder) => expectSameBits(await logitsOf(folder), expected));
  });
});

describe("prefix", () => {
  test("every attention layer is a prefix layer with a non-causal spec, a slot a pass", () => {
    const { model, kvSpecs } = original;
    expect(model.attentions.length).toBe(16);
    expect(model.attentions.map(({ options }) => options.slot)).toEqual(
      Array.from({ length: 16 }, (_, i) => i),
    );
    expect(model.attentions.every((layer) => layer instanceof PrefillPrefixLMAttention)).toBe(true);
    expect(kvSpecs).toEqual(
      Array.from({ length: 16 }, () => ({
        kind: "full-attention" as const,
        nonCausal: true,
        blockSize: 8,
        kvHeads: 2,
        headDim: 32,
        dtype: "f32" as const,
      })),
    );
  });

  test("an early token's logits depend on later ones only within the prefix", async () => {
    const changed = [...ids.slice(0, -1), 7];
    const vocab = 320;
    const first = (logits: Float32Array) => logits.slice(0, vocab);
    expect(first(await promptLogits(original, changed, whole))).not.toEqual(first(expected));
    const causal = await promptLogits(original, ids, { prefixLength: 0 });
    expectSameBits(first(await promptLogits(original, changed, { prefixLength: 0 })), first(causal));
    const short = await promptLogits(original, ids, { prefixLength: 5 });
    expectSameBits(first(await promptLogits(original, changed, { prefixLength: 5 })), first(short));
  });

  test("behind the prefix a prompt may be cut anywhere", async () => {
    const uncut = await promptLogits(original, ids, { prefixLength: 4 });
    // Steps of few tokens run other kernels on a GPU, which sum in another order.
    const cut = await promptLogits(original, ids, { prefixLength: 4, cuts: [4, 1, 2, 6] });
    expect(relativeRms(cut, uncut)).toBeLessThan(1e-5);
  });

  test("prefix_lm: false builds plain causal attention, whatever prefix a request has", async () => {
    const causal = await promptLogits(original, ids, { prefixLength: 0 });
    const refuse = (config: Record<string, unknown>) => (config.prefix_lm = false);
    await withChangedConfig(dir, refuse, async (folder) => {
      const plain = await openTestModel(folder);
      const { attentions } = plain.model;
      expect(attentions.every((layer) => layer instanceof Attention)).toBe(true);
      expect(attentions.some((layer) => layer instanceof PrefillPrefixLMAttention)).toBe(false);
      expect(plain.kvSpecs.every((spec) => spec.kind === "full-attention" && !spec.nonCausal)).toBe(true);
      expectSameBits(await promptLogits(plain, ids, { prefixLength: 0 }), causal);
      expectSameBits(await promptLogits(plain, ids, whole), causal);
    });
  });
});

describe("damage", () => {
  test("a missing z_L_init is named, not taken for zeros", async () => {
    const without = (tensors: TestTensor[]) => tensors.filter(({ name }) => name !== "model.z_L_init");
    await withChangedTensors(dir, without, async (folder) => {
      const error = await rejection(openTestModel(folder));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toContain('tensor "model.z_L_init"');
      expect(error.message).toContain("no such tensor");
    });
  });

  test("a tensor of the wrong shape is named with file, expected and found", async () => {
    const name = "model.L_module.layers.1.mlp.down_proj.weight";
    const wrong = (tensors: TestTensor[]) =>
      tensors.map((tensor) => (tensor.name === name ? { ...tensor, shape: [160, 64] } : tensor));
    await withChangedTensors(dir, wrong, async (folder) => {
      const error = await rejection(openTestModel(folder));
      expect(error).toBeInstanceOf(CheckpointError);
      const message = error.message.replaceAll(", ", ",");
      for (const part of [join(folder, "model.safetensors"), `"${name}"`, "[64,160]", "[160,64]"]) {
        expect(message).toContain(part);
      }
      expect(message.indexOf("[64,160]")).toBeLessThan(message.indexOf("[160,64]"));
    });
  });
});
