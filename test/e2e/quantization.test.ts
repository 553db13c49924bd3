/** Quantised weights and 8-bit keys and values through the real engine: what they cost, and that damage is noticed. */
import { cpSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { verifyFolder } from "../../src/commands/verify.ts";
import { type EngineOptions, loadEngine } from "../../src/engine/load-engine.ts";
import type { CaseResult } from "../../src/engine/verify/judge.ts";
import type { Summary } from "../../src/engine/verify/summary.ts";
import type { Tolerance } from "../../src/engine/verify/tolerance.ts";
import { withTempDir } from "../support/checkpoint.ts";
import { engineOptions, quietEnvironment, tinyModel } from "../support/served.ts";
import { shared } from "../support/shared.ts";

setDefaultTimeout(300_000);

type Verdict = Summary & { tolerance: Tolerance; cases: CaseResult[] };

async function verify(modelDir: string, changes: Partial<EngineOptions>): Promise<Verdict> {
  const { environment, output } = quietEnvironment();
  await verifyFolder({ engine: engineOptions(modelDir, changes), json: true }, environment);
  return JSON.parse(output()) as Verdict;
}

interface GoldenAnswer {
  task: string;
  output_ids: number[];
}

/** Runs `body` with the embedded model and few of its golden answers: those of two tasks that have one right answer. */
function withFewAnswers<T>(
  edit: (answers: GoldenAnswer[]) => GoldenAnswer[],
  body: (dir: string) => Promise<T>,
): Promise<T> {
  return withTempDir((dir) => {
    cpSync(tinyModel, dir, { recursive: true });
    const file = join(dir, "golden.json");
    const all = JSON.parse(readFileSync(file, "utf8")) as GoldenAnswer[];
    rmSync(file);
    writeFileSync(file, JSON.stringify(edit(all.filter(({ task }) => ["number", "sum"].includes(task)))));
    return body(dir);
  });
}

describe("golden answers of sums and numbers", () => {
  test("all are reproduced with weights of 4 bits and keys and values of 8; the log-probabilities tell", () =>
    withFewAnswers(
      (answers) => answers,
      async (dir) => {
        const found = await verify(dir, { quantization: "int4", kvDtype: "int8" });
        expect(found).toMatchObject({ passed: true, answers: { exact: 28, all: 28 } });
        expect(found.exactMatch).toEqual({ own: 28, golden: 28, both: 28, all: 28 });
        expect(found.tolerance).toMatchObject({ greedyShare: 0.96, exactMatchLoss: 0.04 });
        expect(found.logprobError).toBeGreaterThan(1e-4);
        expect(found.logprobError).toBeLessThan(0.1);
      },
    ));

  test("wrong ones fail, since there are no near ties and the share is counted; its own answers are right", () =>
    withFewAnswers(
      (answers) => {
        answers.slice(0, 4).forEach(({ output_ids }, index) => (output_ids[index % 2] ^= 1));
        return answers.slice(0, 8);
      },
      async (dir) => {
        const found = await verify(dir, { quantization: "int8" });
        expect(found.passed).toBe(false);
        expect(found.answers).toEqual({ exact: 4, all: 8 });
        expect(found.exactMatch).toEqual({ own: 8, golden: 8, both: 8, all: 8 });
      },
    ));
});

describe("reference logits", () => {
  test.each<[string, Partial<EngineOptions>]>([
    ["tiny-llama", { quantization: "int8", kvDtype: "int8" }],
    ["tiny-hrm-text-b", { kvDtype: "int8" }], // heads of 24
    ["tiny-gemma3", { quantization: "int8" }], // a tied head
  ])("%s with %o is within its rounding", async (name, changes) => {
    const { passed, cases, tolerance } = await verify(shared(`reference/${name}`), {
      ...changes,
      rotaryFrequencies: "bf16",
    });
    expect(passed).toBe(true);
    expect(tolerance.relativeRms).toBeLessThan(0.4);
    // Rounded they are: float32 is met to 1e-4.
    for (const { relativeRms } of cases) expect(relativeRms).toBeGreaterThan(2e-3);
  });
});

test("the cache is filled once, mended where damaged; rows that are no whole groups stay in 16 bits and are named", () =>
  withTempDir(async (quantizationCache) => {
    const changes = { quantization: "int4", quantizationGroup: 64, quantizationCache, numBlocks: 8 } as const;
    const load = async () => {
      const notes: string[] = [];
      const options = engineOptions(shared("reference/tiny-llama"), changes);
      const { gpu } = await loadEngine(options, ({ stage, note }) => {
        if (stage === "weights" && note) notes.push(note);
      });
      gpu.close();
      return notes;
    };
    const unquantized =
      "model.layers.0.mlp.down_proj.weight and 2 more are not quantised: rows are no multiple of 64";
    expect(await load()).toEqual([unquantized]);
    const [folder] = readdirSync(quantizationCache);
    const files = readdirSync(join(quantizationCache, folder)).map((name) =>
      join(quantizationCache, folder, name),
    );
    expect(files.length).toBe(3 * 3 + 1);
    const [file, other] = files;
    const [whole, otherTime] = [readFileSync(file), statSync(other).mtimeMs];
    writeFileSync(
      file,
      whole.map((byte, at) => (at === whole.length - 100 ? byte ^ 1 : byte)),
    );
    const [damage, ...rest] = await load();
    expect(damage).toContain(`Making damaged files of the quantisation cache ${quantizationCache}`);
    expect(rest).toEqual([unquantized]);
    expect([...readFileSync(file)]).toEqual([...whole]);
    expect(statSync(other).mtimeMs).toBe(otherTime);
  }));
