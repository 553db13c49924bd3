import { describe, expect, test } from "bun:test";
import { groups, type KernelSpec, matchTensors, tensor } from "../../src/gpu/kernel.ts";
import type { Dtype, Tensor } from "../../src/gpu/tensor.ts";

const spec: KernelSpec = {
  name: "blend",
  files: ["blend"],
  params: {},
  tensors: {
    x: tensor("read", "f32", "tokens channels"),
    weight: tensor("read", "packed", "outputs channels"),
    settings: tensor("read", "u32", "tokens 8"),
    y: tensor("read_write", "f32", "tokens outputs"),
  },
};

function fake(name: string, shape: number[], dtype: Dtype = "f32"): Tensor {
  return { name, dtype, shape, buffer: { id: 0, gpu: {} as GPUBuffer }, offset: 0, size: 0 };
}

function tensors(changes: Partial<Record<string, Tensor>> = {}): Record<string, Tensor> {
  const fitting = {
    x: fake("states", [3, 16]),
    weight: fake("model.w", [5, 16], "bf16"),
    settings: fake("settings", [3, 8], "u32"),
    y: fake("scores", [3, 5]),
  };
  return { ...fitting, ...changes };
}

describe("matchTensors", () => {
  test("gives every dimension its size", () => {
    expect(matchTensors(spec, tensors())).toEqual({ tokens: 3, channels: 16, outputs: 5 });
  });

  test.each<[string, Partial<Record<string, Tensor>>]>([
    ["weight [outputs, channels], got nothing", { weight: undefined }],
    ["settings to be u32, got f32 (other)", { settings: fake("other", [3, 8]) }],
    ["x to be f32, got bf16 (states)", { x: fake("states", [3, 16], "bf16") }],
    ["weight to be packed, got u32 (model.w)", { weight: fake("model.w", [5, 16], "u32") }],
    ["x [tokens, channels], got [48] (states)", { x: fake("states", [48]) }],
    [
      "weight to have channels = 16 as in x, got 15 (model.w [5, 15])",
      { weight: fake("model.w", [5, 15], "f16") },
    ],
    ["settings to have 8 = 8, got 7 (settings [3, 7])", { settings: fake("settings", [3, 7], "u32") }],
    ["y to have outputs = 5 as in weight, got 6 (scores [3, 6])", { y: fake("scores", [3, 6]) }],
  ])("expected %s", (message, changes) => {
    const match = () => matchTensors(spec, tensors(changes));
    expect(match).toThrow(TypeError);
    expect(match).toThrow(`Cannot run blend: expected ${message}`);
  });

  test("packed takes each of the three formats", () => {
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      expect(matchTensors(spec, tensors({ weight: fake("w", [5, 16], dtype) })).outputs).toBe(5);
    }
  });
});

test("tensor reads numbers as sizes and words as names", () => {
  expect(tensor("read", "u32", "rows 8")).toEqual({ access: "read", kind: "u32", dims: ["rows", 8] });
});

test("groups cover the count", () => {
  expect([groups(0, 64), groups(1, 64), groups(64, 64), groups(65, 64)]).toEqual([0, 1, 1, 2]);
});
