/** `verify` on every checkpoint at hand: their outputs are met, and a wrong expectation is noticed. */
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { verifyFolder } from "../../src/commands/verify.ts";
import { CheckpointError } from "../../src/engine/errors.ts";
import type { EngineOptions } from "../../src/engine/load-engine.ts";
import type { CaseResult, ExactMatch } from "../../src/engine/verify/judge.ts";
import { readWholeFile, withTempDir, writeSafetensors } from "../support/checkpoint.ts";
import { engineOptions, quietEnvironment, tinyModel } from "../support/served.ts";
import { shared } from "../support/shared.ts";

// All golden answers at once, perhaps on a busy machine.
setDefaultTimeout(300_000);

interface Verdict {
  passed: boolean;
  adapter: string;
  note?: string;
  exactMatch: ExactMatch;
  cases: CaseResult[];
}

async function verify(modelDir: string, changes: Partial<EngineOptions> = {}): Promise<Verdict> {
  const { environment, output } = quietEnvironment();
  const engine = engineOptions(modelDir, changes);
  const passed = await verifyFolder({ engine, json: true }, environment);
  const verdict = JSON.parse(output()) as Verdict;
  expect(verdict.passed).toBe(passed);
  return verdict;
}

function expectAllMet({ passed, adapter, cases }: Verdict): void {
  expect(adapter).not.toBe("");
  for (const { name, greedy, passed } of cases) {
    expect([name, greedy.matched, greedy.ties, passed]).toEqual([name, greedy.all, 0, true]);
    if (name !== "split") expect([name, greedy.all > 0]).toEqual([name, true]);
  }
  expect(passed).toBe(true);
}

// Every one of these references was made with rotary frequencies rounded to bfloat16, which `verify` finds out.
const references = [
  ["tiny-hrm-text", 9],
  ["tiny-hrm-text-b", 9],
  ["tiny-gemma3", 4],
  ["tiny-llama", 4],
  ["tiny-mistral", 4],
  ["tiny-phi3", 4],
  ["tiny-qwen2", 4],
  ["tiny-qwen3", 4],
  ["tiny-smollm3", 4],
] as const;

describe("reference logits", () => {
  test.each(references)("%s", async (name, caseCount) => {
    const verdict = await verify(shared(`reference/${name}`));
    expectAllMet(verdict);
    expect(verdict.cases).toHaveLength(caseCount);
    expect(verdict.note).toMatch(
      /rotary frequencies rounded to bfloat16, and is closer to the same rounding; .* of \d cases/,
    );
    for (const { relativeRms } of verdict.cases) {
      expect(relativeRms).toBeGreaterThan(0);
      expect(relativeRms).toBeLessThan(1e-4);
    }
  });
});

describe("golden answers", () => {
  test("hrm-text-tiny, all 222", async () => {
    const verdict = await verify(tinyModel);
    expectAllMet(verdict);
    expect(verdict.cases).toHaveLength(222);
    // Float32 rotary frequencies, as the engine serves.
    expect(verdict.note).toBeUndefined();
    expect(Math.max(...verdict.cases.map(({ worst }) => worst))).toBeLessThan(1e-4);
    expect(new Set(verdict.cases.map(({ group }) => group)).size).toBe(16);
    expect(verdict.exactMatch).toEqual({ own: 130, golden: 130, both: 130, all: 210 });
  });

  test("tinystories-656k", async () => {
    const verdict = await verify(shared("models/tinystories-656k"));
    expectAllMet(verdict);
    expect(verdict.cases.map(({ greedy }) => greedy.all)).toEqual([64, 64, 64, 64]);
    expect(verdict.note).toBeUndefined();
    expect(Math.max(...verdict.cases.map(({ worst }) => worst))).toBeLessThan(1e-3);
  });
});

interface Reference {
  cases: { key: string; greedy_ids: number[] }[];
}

interface Golden {
  cases: { greedy_ids: number[]; first_step_top5: [number, number][] }[];
}

describe("a wrong expectation fails", () => {
  test("an id and a logit of a reference", async () => {
    const failed = await failedAfter("reference/tiny-llama", (dir) => {
      editJson<Reference>(join(dir, "reference.json"), ({ cases }) => (cases[1].greedy_ids[2] ^= 1));
      const file = join(dir, "reference.safetensors");
      const tensors = readWholeFile(file);
      const { bytes } = tensors.find(({ name }) => name === "case3.causal.decode_logits")!;
      const values = new DataView(bytes.buffer, bytes.byteOffset);
      values.setFloat32(40, values.getFloat32(40, true) + 1, true);
      rmSync(file);
      writeSafetensors(file, tensors);
    });
    expect(failed).toEqual(["case1.causal", "case3.causal"]);
  });

  test("an id and a logit of golden answers, and neither passes for a near tie", async () => {
    const failed = await failedAfter("models/tinystories-656k", (dir) =>
      editJson<Golden>(join(dir, "golden.json"), ({ cases }) => {
        cases[0].first_step_top5[4][1] += 1;
        cases[2].greedy_ids[63] ^= 1;
      }),
    );
    expect(failed).toEqual(["Once upon a time", "The cat sat on"]);
  });
});

/** Verifies a copy of the shared folder in which `change` has changed something; names the cases that fail. */
function failedAfter(folder: string, change: (dir: string) => void): Promise<string[]> {
  return withTempDir(async (dir) => {
    cpSync(shared(folder), dir, { recursive: true });
    change(dir);
    // The references' own rotary convention, so that all other cases pass.
    const rotaryFrequencies = folder.startsWith("reference/") ? "bf16" : "f32";
    const { passed, note, cases } = await verify(dir, { rotaryFrequencies });
    expect([passed, note]).toEqual([false, undefined]);
    return cases.filter((result) => !result.passed).map(({ name }) => name);
  });
}

/** Replaces the file, which may be a read-only copy. */
function editJson<T>(file: string, edit: (value: T) => void): void {
  const value = JSON.parse(readFileSync(file, "utf8")) as T;
  edit(value);
  rmSync(file);
  writeFileSync(file, JSON.stringify(value));
}

describe("nothing to compare with is an error", () => {
  test("a folder without reference.json and golden.json", () =>
    withTempDir(async (dir) => {
      cpSync(shared("reference/tiny-llama/config.json"), join(dir, "config.json"));
      const error = await verify(dir).catch((error: unknown) => error);
      expect(error).toBeInstanceOf(CheckpointError);
      expect((error as Error).message).toBe(
        `Cannot verify ${dir}: expected a reference.json or golden.json in it, got neither`,
      );
    }));

  test("a golden answer without ids", () =>
    withTempDir(async (dir) => {
      cpSync(shared("models/tinystories-656k/config.json"), join(dir, "config.json"));
      const cases = [{ prompt: "Once", prompt_ids: [1, 80] }];
      writeFileSync(join(dir, "golden.json"), JSON.stringify({ cases }));
      const error = await verify(dir).catch((error: unknown) => error);
      expect(error).toBeInstanceOf(CheckpointError);
      expect((error as Error).message).toMatch(/expected output_ids or greedy_ids.*cases\[0\]/s);
    }));
});
