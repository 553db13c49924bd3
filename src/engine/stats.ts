/** How the engine is doing, as plain data: what is under way now, and totals since its start. */
import type { KernelProfile } from "../gpu/profile.ts";
import type { TimeHistogram } from "./queue-times.ts";
import type { RectangleKind } from "./trace-events.ts";

/** Tokens times layer passes of one sequence in a step. Ranges are `[from, to)`. */
export interface StepRectangle {
  /** Tells sequences apart, and nothing else of them. */
  sequence: string;
  kind: RectangleKind;
  tokens: readonly [from: number, to: number];
  passes: readonly [from: number, to: number];
}

/** A step that is done. */
export interface StepRecord {
  index: number;
  /** Milliseconds since the epoch: when it was handed to the device, and when its results were there. */
  submitMs: number;
  doneMs: number;
  rectangles: readonly StepRectangle[];
}

/** KV blocks of one group of layers; `total` is the sum of the others. */
export interface KvBlockCounts {
  /** Content that is cached and used counts as used. */
  used: number;
  cached: number;
  free: number;
  total: number;
}

/** Totals, the last steps and the kernels' times are since the start; the rest is as it is now. */
export interface EngineStats {
  /** Sequences (answers of a request count one each): those that hold blocks, those that wait, those whose reader is slow. */
  running: number;
  waiting: number;
  paused: number;
  /** How often a sequence lost its blocks to others. */
  preemptions: number;
  /** Compiled grammars that are kept, and how often a thread that follows answers was ended since it failed or hung. */
  grammars: { kept: number; threadLosses: number };
  /** Prompt tokens of requests whose first token has come, cached ones included, and tokens generated. */
  promptTokens: number;
  generationTokens: number;
  /** By group of layers. */
  kvBlocks: readonly KvBlockCounts[];
  /** Tokens looked up by sequences that started, and those of them that were found. */
  prefixCache: { queryTokens: number; hitTokens: number };
  /** How long requests waited for their first step. */
  queueTimes: TimeHistogram;
  /** Steps planned, and the last of them that are done, oldest first. */
  steps: number;
  recentSteps: readonly StepRecord[];
  /** GPU time by kernel; null unless it is measured. */
  kernels: readonly KernelProfile[] | null;
}
