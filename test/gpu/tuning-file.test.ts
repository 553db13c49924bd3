import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import type { TunedShape, TuningShape } from "../../src/gpu/tuning.ts";
import { readTuning, tuningFile, writeTuning } from "../../src/gpu/tuning-file.ts";
import { withTempDir } from "../support/checkpoint.ts";
import { testGpu } from "../support/gpu.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);

const shape: TuningShape = { kernel: "gemm", rows: 64, inputs: 32, tokens: 16, format: "f16" };
const first: TunedShape = { shape, choice: { matrices: [2, 1], split: 8, isEager: true } };
const second: TunedShape = { shape: { ...shape, rows: 128 }, choice: { lanes: 4 } };
const all = { faster: [first, second], measured: [first.shape, second.shape] };

test("what is written is read, with a line that says so", () =>
  withTempDir(async (dir) => {
    const file = join(dir, "new", "tuning.json");
    expect(await writeTuning(gpu, file, all)).toBe(file);
    expect(await readTuning(gpu, file)).toEqual({
      tuning: [first, second],
      note: `2 shapes as tuned by ${file}`,
    });
    expect(readdirSync(join(dir, "new"))).toEqual(["tuning.json"]);
  }));

test("a later tuning replaces the shapes that it measured, and keeps the others", () =>
  withTempDir(async (dir) => {
    const file = join(dir, "tuning.json");
    await writeTuning(gpu, file, all);
    await writeTuning(gpu, file, { faster: [], measured: [first.shape] });
    expect((await readTuning(gpu, file)).tuning).toEqual([second]);
  }));

test("the file of the adapter itself lies in the cache, and need not be there", () =>
  withTempDir(async (dir) => {
    const before = process.env.XDG_CACHE_HOME;
    process.env.XDG_CACHE_HOME = dir;
    try {
      expect(await readTuning(gpu, "auto")).toEqual({ tuning: [], note: null });
      const file = await writeTuning(gpu, "auto", all);
      expect(file).toBe(tuningFile(gpu));
      expect(file.startsWith(join(dir, "prelude", "tuning"))).toBe(true);
      expect((await readTuning(gpu, "auto")).tuning).toEqual([first, second]);
    } finally {
      if (before === undefined) delete process.env.XDG_CACHE_HOME;
      else process.env.XDG_CACHE_HOME = before;
    }
  }));

type Content = Record<string, unknown> & { shapes: { shape: Record<string, unknown>; choice: unknown }[] };

describe("ignored, with a line that says why, is a file that", () => {
  const ways: [string, (content: Content) => unknown, string][] = [
    ["is no JSON", () => "{", "expected a file that prelude tune wrote"],
    ["is of another adapter", (c) => ({ ...c, adapter: "another" }), "made for adapter another, not "],
    ["is of another runtime", (c) => ({ ...c, runtime: "node" }), "made for runtime node, not "],
    ["is of other kernels", (c) => ({ ...c, kernels: "0" }), "made for kernels 0, not "],
    ["says more", (c) => ({ ...c, more: 1 }), "expected a file that prelude tune wrote"],
    ["has no shapes", (c) => ({ ...c, shapes: {} }), "expected a file that prelude tune wrote"],
    [
      "has a format nobody knows",
      (c) => withShape(c, { format: "f8" }),
      "expected a file that prelude tune wrote",
    ],
    ["has no tokens", (c) => withShape(c, { tokens: 0 }), "expected a file that prelude tune wrote"],
    [
      "has text for a choice",
      (c) => ({ ...c, shapes: [{ ...c.shapes[0], choice: "4" }] }),
      "expected a file that",
    ],
    ["is too large", () => " ".repeat(5 * 1024 * 1024), "expected 4194304 bytes at most"],
  ];
  test.each(ways)("%s", (_what, change, why) =>
    withTempDir(async (dir) => {
      const file = join(dir, "tuning.json");
      await writeTuning(gpu, file, all);
      const changed = change(JSON.parse(readFileSync(file, "utf8")) as Content);
      writeFileSync(file, typeof changed === "string" ? changed : JSON.stringify(changed));
      const { tuning, note } = await readTuning(gpu, file);
      expect(tuning).toEqual([]);
      expect(note).toContain(`Ignoring the tuning ${file}: ${why}`);
      expect(note).not.toContain("\n");
    }),
  );

  test("is named and not there", async () => {
    const { tuning, note } = await readTuning(gpu, "/nowhere/tuning.json");
    expect(tuning).toEqual([]);
    expect(note).toContain("Ignoring the tuning /nowhere/tuning.json: ");
  });

  function withShape(content: Content, changes: Record<string, unknown>): Content {
    const [{ shape: old, choice }] = content.shapes;
    return { ...content, shapes: [{ shape: { ...old, ...changes }, choice }] };
  }
});
