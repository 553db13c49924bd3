/**
 * `prelude tune`: which variants of the kernels are fastest on this adapter, for the shapes of a model. The engine itself
 * records what it would run; each shape is measured as `gpu/tuner.ts` says, and the choices are kept for later starts.
 */
import { type EngineOptions, loadEngine, type LoadedEngine } from "../engine/load-engine.ts";
import { engineForSteps, stepDispatches, type TuningSteps } from "../engine/tuning-steps.ts";
import { readModelConfig } from "../engine/weights/config.ts";
import { tunableGroups, Tuner, type TuningResult } from "../gpu/tuner.ts";
import { isSameShape, type Tuning } from "../gpu/tuning.ts";
import { writeTuning } from "../gpu/tuning-file.ts";
import type { Environment } from "./environment.ts";
import { loadProgress } from "./progress.ts";

export interface TuneOptions {
  engine: EngineOptions;
  /** Left out, by adapter. */
  tokenCounts?: readonly number[];
  context?: number;
  /** No shape is begun after so long, loading included. */
  timeLimitMs: number;
  json?: boolean;
}

/** The most important first, since time may run out. */
const steps = {
  gpu: { tokenCounts: [1, 8, 2, 4, 64, 512, 16, 32, 128, 2048], context: 1024 },
  cpu: { tokenCounts: [1, 32], context: 16 },
};

/** Prints a line a shape as it is measured, and writes the choices to the tuning of `engine` (none: nowhere). */
export async function tune(options: TuneOptions, environment: Environment): Promise<void> {
  const until = environment.clock() + options.timeLimitMs;
  const { maxPositions } = await readModelConfig(options.engine.modelDir);
  const longest = options.engine.maxModelLen ?? maxPositions;
  const { onProgress, end } = loadProgress(environment);
  // Which adapter it is, is known once the engine is loaded; the steps of a GPU are the larger ones.
  const engine = engineForSteps(options.engine, wantedSteps(options, "gpu", longest));
  const loaded = await loadEngine(engine, onProgress).finally(end);
  try {
    const wanted = wantedSteps(options, loaded.gpu.traits.isCpu ? "cpu" : "gpu", longest);
    const results = await measureAll(loaded, { ...wanted, until, json: options.json ?? false }, environment);
    await finish(loaded, { ...options, results }, environment);
  } finally {
    loaded.gpu.close();
  }
}

function wantedSteps(options: TuneOptions, kind: "cpu" | "gpu", longest: number): TuningSteps {
  const { tokenCounts = steps[kind].tokenCounts, context = steps[kind].context } = options;
  return {
    tokenCounts: tokenCounts.filter((count) => count <= longest),
    context: Math.min(context, longest - 1),
  };
}

interface MeasureOptions extends TuningSteps {
  until: number;
  json: boolean;
}

async function measureAll(
  loaded: LoadedEngine,
  { tokenCounts, context, until, json }: MeasureOptions,
  { clock, report, write }: Environment,
): Promise<TuningResult[]> {
  const tuner = new Tuner(loaded.gpu, clock);
  const results: TuningResult[] = [];
  const say = (line: string) => (json ? report(line) : write(`${line}\n`));
  say(tableHead);
  for (const tokens of tokenCounts) {
    const all = tunableGroups(await stepDispatches(loaded, tokens, context));
    const groups = all.filter(
      ([{ tunable }]) => !results.some(({ shape }) => isSameShape(shape, tunable.shape)),
    );
    for (const group of groups) {
      if (clock() > until) {
        report(`Out of time: shapes of ${tokens} tokens and those after it keep their defaults`);
        return results;
      }
      const result = await tuner.tune(group);
      results.push(result);
      say(tableRow(result));
    }
  }
  return results;
}

async function finish(
  { gpu }: LoadedEngine,
  { results, engine, json }: TuneOptions & { results: readonly TuningResult[] },
  { report, write }: Environment,
): Promise<void> {
  const changed = results.filter(({ isChanged }) => isChanged);
  const measured = results.map(({ shape }) => shape);
  const faster: Tuning = changed.map(({ shape, choice }) => ({ shape, choice }));
  const file = engine.tuning === "none" ? null : await writeTuning(gpu, engine.tuning, { faster, measured });
  const kept = file === null ? "written nowhere" : `written to ${file}`;
  report(`${changed.length} of ${results.length} shapes are faster with another choice; ${kept}`);
  if (json) write(`${JSON.stringify({ adapter: gpu.adapterId, file, shapes: results })}\n`);
}

const tableHead = [
  "kernel".padEnd(18),
  "tokens".padStart(6),
  "rows x inputs".padStart(14),
  "".padEnd(5),
  "default us".padStart(11),
  "best us".padStart(10),
  " choice",
].join(" ");

/** A star marks operands that may all lie in the device's last cache. */
function tableRow({ shape, isChanged, isCached, ...times }: TuningResult): string {
  const { kernel, tokens, rows, inputs, format } = shape;
  const { rejected, measured, choice, defaultMicroseconds, microseconds } = times;
  const wrong = rejected.length > 0 ? `, ${rejected.length} gave other results` : "";
  return [
    kernel.padEnd(18),
    String(tokens).padStart(6),
    `${rows} x ${inputs}`.padStart(14),
    format.padEnd(5),
    `${defaultMicroseconds.toFixed(1)}${isCached ? "*" : " "}`.padStart(11),
    microseconds.toFixed(1).padStart(10),
    ` ${isChanged ? choiceText(choice) : "default"} (of ${measured}${wrong})`,
  ].join(" ");
}

function choiceText(choice: object): string {
  return Object.entries(choice)
    .map(([name, value]) => `${name} ${JSON.stringify(value)}`)
    .join(", ");
}
