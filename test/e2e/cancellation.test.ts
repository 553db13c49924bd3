/**
 * A request that is cancelled on the real engine, at whatever stage it is, holds nothing from that moment on, and the
 * others do not notice.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadEngine, type LoadedEngine } from "../../src/engine/load-engine.ts";
import type { Sequence } from "../../src/engine/scheduler/sequence.ts";
import { causalModel, type GoldenModel, prefixLm } from "../support/golden.ts";
import { type Answer, runAlone, type ScheduleOptions, ScheduledRun } from "../support/scheduled-run.ts";
import { engineOptions, greedy } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

interface Stage {
  name: string;
  limits: Required<Pick<ScheduleOptions, "maxBatchedTokens" | "maxSequences" | "numBlocks">>;
  /** Answers of the request that is cancelled. */
  n?: number;
  /** True unless told otherwise. */
  holdsBlocks?: boolean;
  isReached: (sequences: readonly Sequence[], run: ScheduledRun) => boolean;
}

const blockSize = 4;
const wide = { maxBatchedTokens: 64, maxSequences: 4, numBlocks: 32 };
/** A growing answer takes blocks from the one that came after it. */
const scarce = { ...wide, numBlocks: 7 };
const stages: Stage[] = [
  {
    name: "waiting for a place",
    limits: { ...wide, maxSequences: 1 },
    holdsBlocks: false,
    isReached: ([{ state }]) => state === "waiting",
  },
  {
    name: "in the midst of a prefill that is cut",
    limits: { ...wide, maxBatchedTokens: 3 },
    isReached: ([{ state }]) => state === "prefilling",
  },
  {
    name: "in a step that is on the device",
    limits: wide,
    isReached: ([{ pending, outputLength }]) => pending.length > 0 && outputLength === 0,
  },
  { name: "decoding", limits: wide, isReached: ([{ outputLength }]) => outputLength === 2 },
  {
    name: "with two answers",
    limits: wide,
    n: 2,
    isReached: (sequences) => sequences.length === 2 && sequences[1].outputLength > 0,
  },
  {
    name: "preempted",
    limits: scarce,
    holdsBlocks: false,
    isReached: ([{ state }]) => state === "preempted",
  },
  {
    name: "resumed",
    limits: scarce,
    isReached: ([{ isRunning }], { scheduler }) => isRunning && scheduler.stats().preemptions > 0,
  },
];

for (const model of [prefixLm, causalModel()]) describe(model.name, () => cancellation(model));

function cancellation({ dir, prompts }: GoldenModel): void {
  const sampling = { ...greedy, maxTokens: 10, ignoreEos: true };
  const [stays, goes] = [prompts[2], prompts[0]].map((promptIds) => ({ promptIds, sampling }));
  let engine: LoadedEngine;
  let alone: { stays: Answer; goes: Answer };
  beforeAll(async () => {
    engine = await loadEngine(engineOptions(dir, { blockSize, ...wide, deterministic: true }));
    alone = {
      stays: (await runAlone(engine, { id: "stays", ...stays })).answers[0],
      goes: (await runAlone(engine, { id: "goes", ...goes })).answers[0],
    };
  });
  afterAll(() => engine.gpu.close());

  test.each(stages.map((stage) => [stage.name, stage] as const))("%s", async (_, stage) => {
    const { limits, n = 1, holdsBlocks = true, isReached } = stage;
    const run = new ScheduledRun(engine, { ...limits, prefixCaching: false });
    const others = [run.submit({ id: "stays", ...stays })];
    const leaving = run.submit({ id: "goes", ...goes, sampling: { ...sampling, n } });
    let idsBefore: number[][] | null = null;
    run.beforeStep = () => {
      const sequences = run.sequencesOf("goes");
      if (idsBefore || sequences.length === 0 || !isReached(sequences, run)) return;
      const held = new Set(sequences.flatMap(({ kv }) => kv.tables.flat())).size;
      const used = usedBlocks(run);
      run.cancel("goes");
      expect(held > 0).toBe(holdsBlocks);
      expect([run.sequencesOf("goes").length, usedBlocks(run)]).toEqual([0, used - held]);
      idsBefore = leaving.answers.map(({ ids }) => [...ids]);
      others.push(run.submit({ id: "comes", ...goes }));
    };
    await run.drain();
    const { numBlocks: blocks } = limits;
    expect(leaving.answers.map(({ ids }) => ids)).toEqual(idsBefore ?? [[]]);
    expect(others.map(({ answers: [{ ids }] }) => ids)).toEqual([alone.stays.ids, alone.goes.ids]);
    expect(run.kv.stats().groups).toEqual([{ blocks, free: blocks, cached: 0, used: 0 }]);
  });
}

function usedBlocks(run: ScheduledRun): number {
  return run.kv.stats().groups.reduce((sum, { used }) => sum + used, 0);
}
