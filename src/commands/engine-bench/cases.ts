/** What `prelude bench engine` measures: decoding, prompts, a load of many requests, and the stall of a long prompt. */
import { setImmediate } from "node:timers/promises";
import type { LoadedEngine } from "../../engine/load-engine.ts";
import type { Environment } from "../environment.ts";
import { gaps, Harness, median, type Shape, type Track } from "./harness.ts";

export interface CaseOptions {
  /** Sequences that decode at once. */
  batches: readonly number[];
  /** Tokens that they have behind them while they are measured, about. */
  context: number;
  /** Lengths of lone prompts. */
  prompts: readonly number[];
  /** A closed loop of requests. */
  load?: { requests: number; concurrency: number } & Shape;
  /** A long prompt among eight decoding sequences, cut to this budget and whole. */
  stall?: { prompt: number; budget: number };
}

export interface CaseResult {
  case: string;
  value: number;
  unit: "tok/s" | "ms" | "times";
}

type Clock = Pick<Environment, "clock">;

/** Ids measured of each decoding sequence, after as many that are not. */
const measuredOutputs = 64;
/** The clocks of a GPU take half a second of work to rise. */
const warmUpMs = 1000;

export async function* engineCases(
  loaded: LoadedEngine,
  options: CaseOptions,
  environment: Clock,
): AsyncGenerator<CaseResult> {
  const { batches, context, prompts, load, stall } = options;
  const bench = { loaded, ...environment };
  if (loaded.maxModelLen >= context + 2 * measuredOutputs) await warmUp(bench);
  for (const batch of batches) yield await decode(bench, batch, context);
  for (const tokens of prompts) yield await prompt(bench, tokens);
  if (load) yield await closedLoop(bench, load);
  if (stall) yield* stalls(bench, stall);
}

interface Bench extends Clock {
  loaded: LoadedEngine;
}

function harness({ loaded, clock }: Bench, maxBatchedTokens = loaded.maxBatchedTokens): Harness {
  return new Harness(loaded, { maxBatchedTokens, clock });
}

async function warmUp(bench: Bench): Promise<void> {
  const engine = harness(bench);
  const until = bench.clock() + warmUpMs;
  while (bench.clock() < until) await engine.run({ tokens: 16, outputs: 32 }).done;
  await engine.close();
}

/** The median step of a batch, the context in the middle of what is measured. */
async function decode(bench: Bench, batch: number, context: number): Promise<CaseResult> {
  const engine = harness(bench);
  const outputs = 2 * measuredOutputs;
  const tokens = Math.max(1, context - outputs + measuredOutputs / 2);
  const runs = Array.from({ length: batch }, () => engine.run({ tokens, outputs }).done);
  const tracks = await Promise.all(runs);
  await engine.close();
  const step = median(tracks.flatMap((track) => gaps(track).slice(-measuredOutputs)));
  return {
    case: `decode, batch ${batch}, ${context} of context`,
    value: (1000 * batch) / step,
    unit: "tok/s",
  };
}

async function prompt(bench: Bench, tokens: number): Promise<CaseResult> {
  const engine = harness(bench);
  const times: number[] = [];
  for (let round = 0; round < 7; round++) {
    const { submitMs, times: known } = await engine.run({ tokens, outputs: 1 }).done;
    times.push(known[0] - submitMs);
  }
  await engine.close();
  return { case: `prompt of ${tokens}, to its first token`, value: median(times.slice(2)), unit: "ms" };
}

/** Output throughput of `requests`, at most `concurrency` at once. */
async function closedLoop(bench: Bench, load: NonNullable<CaseOptions["load"]>): Promise<CaseResult> {
  const { requests, concurrency, tokens, outputs } = load;
  const engine = harness(bench);
  let left = requests;
  const client = async (): Promise<void> => {
    while (left-- > 0) await engine.run({ tokens, outputs }).done;
  };
  const startMs = bench.clock();
  await Promise.all(Array.from({ length: concurrency }, client));
  const seconds = (bench.clock() - startMs) / 1000;
  await engine.close();
  const name = `${requests} requests, ${concurrency} at once, ${tokens} in, ${outputs} out`;
  return { case: name, value: (requests * outputs) / seconds, unit: "tok/s" };
}

const decodingBeside = 8;
/** Ids of each before the prompt comes, and at least after its last layered step: there is one a pass at most. */
const decodedBefore = 32;
const decodedAfter = 16;
/** A pause of this process or of the machine falls into one or two of them. */
const stallRounds = 5;

/** The longest gap between ids of eight decoding requests while a long prompt is prefilled, whole and cut: medians. */
async function* stalls(
  bench: Bench,
  { prompt: tokens, budget }: NonNullable<CaseOptions["stall"]>,
): AsyncGenerator<CaseResult> {
  const whole = await usualStall(bench, { tokens, budget: tokens + decodingBeside });
  const cut = await usualStall(bench, { tokens, budget });
  for (const { name, gapMs, firstMs } of [whole, cut]) {
    yield { case: `${name}: longest gap of the others`, value: gapMs, unit: "ms" };
    yield { case: `${name}: its first token`, value: firstMs, unit: "ms" };
  }
  const name = `whole / budget ${budget}: longest gap of the others`;
  yield { case: name, value: whole.gapMs / cut.gapMs, unit: "times" };
}

interface Stall {
  gapMs: number;
  firstMs: number;
}

async function usualStall(bench: Bench, prompt: { tokens: number; budget: number }) {
  const rounds: Stall[] = [];
  for (let round = 0; round < stallRounds; round++) rounds.push(await longestGap(bench, prompt));
  return {
    name: `prompt of ${prompt.tokens} among ${decodingBeside} decoding, budget ${prompt.budget}`,
    gapMs: median(rounds.map(({ gapMs }) => gapMs)),
    firstMs: median(rounds.map(({ firstMs }) => firstMs)),
  };
}

async function longestGap(
  bench: Bench,
  { tokens, budget }: { tokens: number; budget: number },
): Promise<Stall> {
  const engine = harness(bench, budget);
  const outputs = decodedBefore + bench.loaded.runner.passCount + decodedAfter;
  const others = Array.from({ length: decodingBeside }, () => engine.run({ tokens: 64, outputs }));
  while (others.some(({ track }) => track.times.length < decodedBefore)) await setImmediate();
  const { submitMs, times } = await engine.run({ tokens, outputs: 2 }).done;
  await Promise.all(others.map(({ done }) => done));
  await engine.close();
  const after = ({ track }: { track: Track }) =>
    gaps(track).filter((_, index) => track.times[index + 1] > submitMs && track.times[index] < times[0]);
  return { gapMs: Math.max(...others.flatMap(after)), firstMs: times[0] - submitMs };
}
