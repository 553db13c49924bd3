import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Environment } from "../../src/commands/environment.ts";
import { tune } from "../../src/commands/tune.ts";
import { defaultEngineOptions, type EngineOptions, loadEngine } from "../../src/engine/load-engine.ts";
import type { TuningResult } from "../../src/gpu/tuner.ts";
import { writeTuning } from "../../src/gpu/tuning-file.ts";
import { withTempDir } from "../support/checkpoint.ts";
import { mainPlan, rectangle } from "../support/rectangle.ts";
import { shared } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(240_000);

const base: EngineOptions = {
  ...defaultEngineOptions,
  modelDir: shared("reference/tiny-hrm-text"),
  gpu: "software",
  maxModelLen: 64,
};

interface Written {
  text: string[];
  reports: string[];
}

function environmentOf({ text, reports }: Written, clock = () => performance.now()): Environment {
  return {
    clock,
    write: (line: string) => void text.push(line),
    report: (line: string) => void reports.push(line),
    isInteractive: false,
  } as unknown as Environment;
}

/** The logits of a prompt, and what was said about the device. */
async function logitsOf(changes: Partial<EngineOptions>) {
  const notes: string[] = [];
  const engine = await loadEngine({ ...base, ...changes }, ({ stage, note }) => {
    if (stage === "device" && note) notes.push(note);
  });
  try {
    const tokenIds = [5, 6, 7, 8, 9, 10, 11];
    const plan = mainPlan(rectangle({ tokenIds, prefixLength: 7, logits: "all" }));
    const products = engine.runner.dispatchesOf(plan).filter(({ file }) => file.startsWith("linear-cpu"));
    const lanes = [...new Set(products.map(({ constants }) => constants.LANES))];
    const logits = await engine.runner.run(plan, "logits").logits();
    return { logits, lanes, notes: notes.slice(1), gpu: engine.gpu };
  } finally {
    engine.gpu.close();
  }
}

test("a model is tuned, its engine uses that and answers as before; a bad file is said and not used", () =>
  withTempDir(async (dir) => {
    const file = join(dir, "tuning.json");
    const written: Written = { text: [], reports: [] };
    const engine = { ...base, tuning: file };
    await tune({ engine, tokenCounts: [1, 8], timeLimitMs: 600_000, json: true }, environmentOf(written));
    expect(written.text).toHaveLength(1);
    const { shapes, file: named } = JSON.parse(written.text[0]) as { file: string; shapes: TuningResult[] };
    expect(named).toBe(file);
    expect([...new Set(shapes.map(({ shape }) => shape.kernel))]).toEqual(["linear-cpu"]);
    expect([...new Set(shapes.map(({ shape }) => shape.tokens))]).toEqual([1, 8]);
    expect(shapes.filter(({ measured, rejected }) => measured !== 4 || rejected.length > 0)).toEqual([]);
    const changed = shapes.filter(({ isChanged }) => isChanged);
    const kept = JSON.parse(readFileSync(file, "utf8")) as { shapes: unknown[] };
    expect(kept.shapes).toEqual(changed.map(({ shape, choice }) => ({ shape, choice })));
    expect(written.reports.at(-1)).toBe(
      `${changed.length} of ${shapes.length} shapes are faster with another choice; written to ${file}`,
    );

    const before = await logitsOf({});
    expect(before).toMatchObject({ lanes: [8], notes: [] });

    // All shapes away from their defaults, whatever is fastest here.
    const measured = shapes.map(({ shape }) => shape);
    await writeTuning(before.gpu, file, {
      measured,
      faster: measured.map((shape) => ({ shape, choice: { lanes: 4 } })),
    });
    const after = await logitsOf({ tuning: file });
    expect(after).toMatchObject({
      lanes: [4],
      notes: [`${measured.length} shapes as tuned by ${file}`],
    });
    expect(after.logits).toEqual(before.logits);
    expect(await logitsOf({ tuning: file, deterministic: true })).toMatchObject({ notes: [] });

    writeFileSync(file, readFileSync(file, "utf8").slice(0, -20));
    const damaged = await logitsOf({ tuning: file });
    expect(damaged.notes).toEqual([`Ignoring the tuning ${file}: expected a file that prelude tune wrote`]);
    expect(damaged.logits).toEqual(before.logits);
  }));

test("out of time, a model is tuned no further and what there is is kept", () =>
  withTempDir(async (dir) => {
    const written: Written = { text: [], reports: [] };
    let now = 0;
    const environment = environmentOf(written, () => (now += 1000));
    const engine = { ...base, tuning: join(dir, "tuning.json") };
    await tune({ engine, tokenCounts: [8], timeLimitMs: 1, json: true }, environment);
    expect(written.reports).toContain(
      "Out of time: shapes of 8 tokens and those after it keep their defaults",
    );
    expect(JSON.parse(readFileSync(join(dir, "tuning.json"), "utf8"))).toMatchObject({ shapes: [] });
  }));
