/**
 * Measures the variants of a tunable kernel on dispatches that a model's own step recorded: its weights, its data.
 *
 * A shape's dispatches, one a layer, are run in turn, so that each finds its operands where a step would: in memory, as
 * long as all layers together are larger than the device's last cache. A variant counts only if its results are those
 * of the default; it is chosen only if it is faster than the default in a second measurement of these two, in turns.
 */
import { isDeepStrictEqual } from "node:util";
import type { Gpu } from "./gpu.ts";
import type { Dispatch } from "./kernel.ts";
import { type Outputs, outputsOf, sameResults } from "./outputs.ts";
import { type Program, Recorder } from "./recorder.ts";
import { bestTimer, median, type Timer } from "./stopwatch.ts";
import { type Choice, isSameShape, type Tunable, type TuningShape } from "./tuning.ts";

export type TunableDispatch = Dispatch & { readonly tunable: Tunable };

export interface TuningResult {
  shape: TuningShape;
  byDefault: Choice;
  /** Microseconds of a dispatch. */
  defaultMicroseconds: number;
  /** The default itself where nothing was faster. */
  choice: Choice;
  microseconds: number;
  isChanged: boolean;
  /** Variants that were measured, the default included, and those whose results were not the default's. */
  measured: number;
  rejected: readonly Choice[];
  /** All operands together may fit the device's last cache: a step of more layers would find them in memory. */
  isCached: boolean;
}

/** A GPU's clocks take half a second to rise. */
const warmUpMs = { cpu: 0, gpu: 600 };
/** Least time that a sample should take. */
const sampleMs = { cpu: 10, gpu: 2 };
/** Samples of each variant, then of the fastest and the default; a software adapter takes its time. */
const firstSamples = { cpu: 1, gpu: 3 };
const finalSamples = { cpu: 7, gpu: 9 };
/** More than the last cache of a large GPU (50 MB), or than a CPU's cores have of their own. */
const cacheBytes = { cpu: 8 * 2 ** 20, gpu: 128 * 2 ** 20 };
/** A variant must take less than this share of the default's time, and win all rounds but one, to be chosen. */
const shareMax = 0.97;
/** One that takes longer than this share of the best is not measured any further. */
const hopelessShare = 1.5;

/** The tunable dispatches by shape, those that run the same pipeline over other memory together; in order of appearance. */
export function tunableGroups(dispatches: readonly Dispatch[]): TunableDispatch[][] {
  const groups: TunableDispatch[][] = [];
  for (const dispatch of dispatches.filter(isTunable)) {
    const found = groups.find(([first]) => isSameShape(first.tunable.shape, dispatch.tunable.shape));
    if (!found) groups.push([dispatch]);
    else if (isAlike(found[0], dispatch) && !found.some((other) => hasSameMemory(other, dispatch)))
      found.push(dispatch);
  }
  return groups;
}

function isTunable(dispatch: Dispatch): dispatch is TunableDispatch {
  return dispatch.tunable !== undefined && dispatch.workgroups.every((count) => count > 0);
}

function isAlike(a: Dispatch, b: Dispatch): boolean {
  return isDeepStrictEqual([a.constants, a.replace, a.params], [b.constants, b.replace, b.params]);
}

function hasSameMemory(a: Dispatch, b: Dispatch): boolean {
  return Object.entries(a.tensors).every(
    ([name, { buffer, offset }]) => b.tensors[name].buffer === buffer && b.tensors[name].offset === offset,
  );
}

interface Variant {
  choice: Choice;
  /** Of the first dispatch. */
  dispatch: Dispatch;
  program: Program;
  count: number;
  microseconds: number;
}

export class Tuner {
  readonly #gpu: Gpu;
  readonly #clock: () => number;
  readonly #timer: Timer;
  readonly #recorder: Recorder;
  readonly #kind: "cpu" | "gpu";
  #isWarm = false;

  /** `clock` gives milliseconds. */
  constructor(gpu: Gpu, clock: () => number) {
    this.#gpu = gpu;
    this.#clock = clock;
    this.#timer = bestTimer(gpu, clock);
    this.#recorder = new Recorder(gpu);
    this.#kind = gpu.traits.isCpu ? "cpu" : "gpu";
  }

  /**
   * Measures a group of `tunableGroups`, whose operands are as a step left them. What the first writes is given back as
   * it was: the layers of a step share it, and sums that are added to it again and again would leave nothing to compare.
   */
  async tune(group: readonly TunableDispatch[]): Promise<TuningResult> {
    const outputs = outputsOf(this.#gpu, group[0]);
    try {
      return await this.#tune(group, outputs);
    } finally {
      outputs.restore();
    }
  }

  async #tune(group: readonly TunableDispatch[], outputs: Outputs): Promise<TuningResult> {
    const members = enough(group, cacheBytes[this.#kind]);
    const { right, rejected } = await checked(await this.#compiled(members), outputs);
    const [byDefault] = right;
    await this.#warmUp(byDefault);
    for (const variant of right) await this.#measure(variant, Math.min(...right.map(timeOf)));
    const fastest = right.reduce((best, variant) => (timeOf(variant) < timeOf(best) ? variant : best));
    const isChanged = fastest !== byDefault && (await this.#isFaster(fastest, byDefault));
    const best = isChanged ? fastest : byDefault;
    return {
      shape: group[0].tunable.shape,
      byDefault: byDefault.choice,
      defaultMicroseconds: byDefault.microseconds,
      choice: best.choice,
      microseconds: best.microseconds,
      isChanged,
      measured: right.length,
      rejected,
      isCached: memoryBytes(members) < cacheBytes[this.#kind],
    };
  }

  /** The variants that the device compiles. Throws what it has against the default. */
  async #compiled(members: readonly TunableDispatch[]): Promise<Variant[]> {
    const byMember = members.map(({ tunable }) => tunable.variants());
    const compiling = byMember[0].map(({ dispatch }) => this.#gpu.pipelines.compile([dispatch]));
    const compiled = await Promise.allSettled(compiling);
    if (compiled[0].status === "rejected") throw compiled[0].reason;
    return byMember[0].flatMap(({ choice, dispatch }, index) => {
      if (compiled[index].status === "rejected") return [];
      const program = this.#recorder.program(byMember.map((variants) => variants[index].dispatch));
      return [{ choice, dispatch, program, count: members.length, microseconds: Infinity }];
    });
  }

  async #warmUp({ program }: Variant): Promise<void> {
    if (this.#isWarm) return;
    const until = this.#clock() + warmUpMs[this.#kind];
    do await this.#timer([program]);
    while (this.#clock() < until);
    this.#isWarm = true;
  }

  async #measure(variant: Variant, bestMicroseconds: number): Promise<void> {
    const once = await this.#sample(variant, 1);
    const repeats = Math.max(1, Math.ceil((1000 * sampleMs[this.#kind]) / (once * variant.count)));
    const samples = repeats === 1 ? [once] : [];
    while (samples.length < firstSamples[this.#kind]) {
      samples.push(await this.#sample(variant, repeats));
      if (Math.min(...samples) > hopelessShare * bestMicroseconds) break;
    }
    variant.microseconds = median(samples);
  }

  /** Measures both once more, in turns, so that whatever else the machine does happens to both. */
  async #isFaster(variant: Variant, byDefault: Variant): Promise<boolean> {
    const longer = Math.max(timeOf(variant), timeOf(byDefault)) * variant.count;
    const repeats = Math.max(1, Math.ceil((1000 * sampleMs[this.#kind]) / longer));
    const samples: [number, number][] = [];
    for (let i = 0; i < finalSamples[this.#kind]; i++) {
      samples.push([await this.#sample(variant, repeats), await this.#sample(byDefault, repeats)]);
    }
    variant.microseconds = median(samples.map(([time]) => time));
    byDefault.microseconds = median(samples.map(([, time]) => time));
    const shares = samples.map(([time, other]) => time / other);
    return median(shares) < shareMax && shares.filter((share) => share < 1).length >= shares.length - 1;
  }

  /** Microseconds of a dispatch. */
  async #sample({ program, count }: Variant, repeats: number): Promise<number> {
    const milliseconds = await this.#timer(Array.from({ length: repeats }, () => program));
    return (1000 * milliseconds) / (repeats * count);
  }
}

/** Those whose results are the default's, which goes first. */
async function checked(
  all: readonly Variant[],
  outputs: Outputs,
): Promise<{ right: Variant[]; rejected: Choice[] }> {
  const expected = await outputs.of(all[0].dispatch);
  const right = [all[0]];
  const rejected: Choice[] = [];
  for (const variant of all.slice(1)) {
    if (sameResults(await outputs.of(variant.dispatch), expected)) right.push(variant);
    else rejected.push(variant.choice);
  }
  return { right, rejected };
}

function timeOf({ microseconds }: Variant): number {
  return microseconds;
}

/** As many dispatches as move more bytes than a cache holds. */
function enough(group: readonly TunableDispatch[], bytes: number): readonly TunableDispatch[] {
  let count = 1;
  while (count < group.length && memoryBytes(group.slice(0, count)) < bytes) count++;
  return group.slice(0, count);
}

/** Bytes that these dispatches read and write, at least; memory that several share counts once. */
function memoryBytes(members: readonly Dispatch[]): number {
  const bytes = new Map<unknown, number>();
  for (const { spec, tensors, bytes: moved } of members) {
    for (const name of Object.keys(spec.tensors)) {
      const { buffer, size } = tensors[name];
      bytes.set(buffer, Math.max(bytes.get(buffer) ?? 0, Math.min(size, moved)));
    }
  }
  return [...bytes.values()].reduce((sum, size) => sum + size, 0);
}
