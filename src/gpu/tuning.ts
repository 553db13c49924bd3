/**
 * Which variant of a kernel a shape gets: what was fastest on this adapter if that was measured (`prelude tune`), else
 * the kernel's own default. A tuning can only choose among the candidates that a kernel declares beside its default, so
 * nothing that a file says makes a kernel that was not meant to be.
 */
import { isDeepStrictEqual } from "node:util";
import type { GpuTraits } from "./gpu.ts";
import type { Dispatch } from "./kernel.ts";
import type { Dtype } from "./tensor.ts";

/** What a choice depends on. */
export interface TuningShape {
  readonly kernel: string;
  /** Of the weight; of attention, the workgroups of a token. */
  readonly rows: number;
  /** Of a row of the weight; of attention, the channels of a head. */
  readonly inputs: number;
  /** Rounded up: see `tokensClass`. */
  readonly tokens: number;
  /** Of the weight; of attention, of the cache. */
  readonly format: Dtype;
}

/** Plain data: sizes by name. */
export type Choice = object;

export interface TunedShape {
  readonly shape: TuningShape;
  readonly choice: Choice;
}

export type Tuning = readonly TunedShape[];

/** What a kernel may be run as in some shape. */
export interface Variants<C extends Choice> {
  readonly shape: TuningShape;
  readonly byDefault: C;
  /** What else is worth a try; may name the default again. */
  readonly others: () => readonly C[];
}

/** How a dispatch could have been made instead. */
export interface Tunable {
  readonly shape: TuningShape;
  /** The default first. */
  readonly variants: () => readonly { choice: Choice; dispatch: Dispatch }[];
}

const tokensClassMax = 4096;

/** Counts that share a choice: those up to the same power of two, and all large ones. */
export function tokensClass(tokens: number): number {
  return Math.min(tokensClassMax, 2 ** Math.ceil(Math.log2(Math.max(1, tokens))));
}

/** The variant to run: the default, unless another was found to be faster. Deterministic devices keep to the default. */
export function chosen<C extends Choice>(
  { tuning, deterministic }: GpuTraits,
  { shape, byDefault, others }: Variants<C>,
): C {
  const found = deterministic ? undefined : tuning?.find((tuned) => isSameShape(tuned.shape, shape));
  if (!found) return byDefault;
  return others().find((candidate) => isDeepStrictEqual(candidate, found.choice)) ?? byDefault;
}

export function tunable<C extends Choice>(
  { shape, byDefault, others }: Variants<C>,
  make: (choice: C) => Dispatch,
): Tunable {
  const choices = () => [byDefault, ...others().filter((other) => !isDeepStrictEqual(other, byDefault))];
  return { shape, variants: () => choices().map((choice) => ({ choice, dispatch: make(choice) })) };
}

export function isSameShape(a: TuningShape, b: TuningShape): boolean {
  return (
    a.kernel === b.kernel &&
    a.rows === b.rows &&
    a.inputs === b.inputs &&
    a.tokens === b.tokens &&
    a.format === b.format
  );
}
