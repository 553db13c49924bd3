/** Wrapper and shader agree: params, bindings, access, types and shape comments, for every file of every kernel. */
import { readdirSync } from "node:fs";
import { describe, expect, test } from "bun:test";
import type { KernelSpec } from "../../src/gpu/kernel.ts";
import { kernelSpecs } from "../../src/gpu/kernels/registry.ts";
import { readWgsl } from "../../src/gpu/pipelines.ts";
import { project } from "../support/shared.ts";

const elementTypes: Record<string, string[]> = {
  f32: ["f32", "vec2<f32>", "vec4<f32>", "vec2f", "vec4f"],
  u32: ["u32", "vec4<u32>", "vec4u"],
  packed: ["vec4<u32>", "vec2<u32>", "u32", "vec4u", "vec2u"],
  weights: ["vec4u", "u32"],
  cache: ["vec4<u32>", "vec4u", "vec2u", "u32"],
  i8: ["u32"],
};

interface Binding {
  index: number;
  access: string;
  name: string;
  element: string;
  dims: string[];
}

function bindingsOf(source: string): Binding[] {
  const line =
    /^@group\(0\) @binding\((\d+)\) var<storage, (\w+)> (\w+): array<(?:atomic<)?([\w<>]+?)>?>;\s*\/\/ \[([^\]]*)\]/gm;
  return [...source.matchAll(line)].map(([, index, access, name, element, dims]) => ({
    index: Number(index),
    access,
    name,
    element:
      element.endsWith("2<f32") || element.endsWith("4<f32") || element.endsWith("<u32")
        ? `${element}>`
        : element,
    dims: dims.split(",").map((dim) => dim.trim()),
  }));
}

function paramsOf(source: string): string[] {
  const body = /struct Params \{([^}]*)\}/.exec(source)?.[1] ?? "";
  return [...body.matchAll(/(\w+): (u32|f32)/g)].map(([, name, type]) => `${name}: ${type}`);
}

function check(spec: KernelSpec, file: string): void {
  const source = readWgsl(file);
  expect(source.startsWith(`// ${file}: `)).toBe(true);
  expect(paramsOf(source)).toEqual(Object.entries(spec.params).map(([name, type]) => `${name}: ${type}`));
  const bindings = bindingsOf(source);
  expect(bindings.map(({ name, access, dims }) => ({ name, access, dims }))).toEqual(
    Object.entries(spec.tensors).map(([name, { access, dims }]) => ({
      name,
      access,
      dims: dims.map(String),
    })),
  );
  bindings.forEach(({ index, name, element }, position) => {
    expect(index).toBe(position + 1);
    expect(elementTypes[spec.tensors[name].kind]).toContain(element);
  });
}

describe("kernel contract", () => {
  for (const spec of kernelSpecs) {
    for (const file of spec.files) test(file, () => check(spec, file));
  }

  // WGSL has no includes.
  const copies: [what: string, text: RegExp, files: string[]][] = [
    [
      "the products for few tokens have the same inner loop",
      /^\/\/\/ Where a token's i-th eight inputs[^]*?^fn step_of[^]*?^\}\n/m,
      ["fused-linear", "qkv-decode", "combine-linear"],
    ],
    [
      "the norms for matrix units round and add up alike",
      /^\/\/\/ Four values as f16\.[^]*?^fn total[^]*?^\}\n/m,
      ["norm-f16", "add-norm-f16"],
    ],
  ];
  test.each(copies)("%s", (_what, text, files) => {
    const [first, ...others] = files.map((file) => text.exec(readWgsl(file))?.[0]);
    expect(first).toBeDefined();
    for (const other of others) expect(other).toBe(first);
  });

  test("every file in wgsl/ belongs to a kernel", () => {
    const known = kernelSpecs.flatMap(({ files }) => files).sort();
    const found = readdirSync(project("wgsl")).map((name) => name.replace(/\.wgsl$/, ""));
    expect(found.sort()).toEqual(known);
  });
});
