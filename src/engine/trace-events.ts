/**
 * An engine step as events of Chrome's trace format, which Perfetto and chrome://tracing show as a timeline.
 * Pure: times are the caller's. One track for the steps and one for each sequence; counters for queue and KV blocks.
 */

/** `replay` is the prefill of tokens that a preempted sequence had generated before. */
export type RectangleKind = "decode" | "prefill" | "chunk" | "layered" | "replay";

/** Tokens times layer passes of one sequence, the unit of what a step does. Ranges are `[from, to)`. */
export interface TraceRectangle {
  /** Names the track: the request's id, and which of its answers where there are several. */
  sequence: string;
  kind: RectangleKind;
  tokens: readonly [from: number, to: number];
  passes: readonly [from: number, to: number];
}

export interface TraceCounters {
  running: number;
  waiting: number;
  /** By group of layers. */
  kvBlocks: readonly { used: number; cached: number; free: number }[];
}

export interface TraceStep {
  index: number;
  /** Milliseconds of any one clock: when the step was handed to the device, and when its results were there. */
  submitMs: number;
  doneMs: number;
  rectangles: readonly TraceRectangle[];
  /** As they were when the step was planned. */
  counters: TraceCounters;
}

/** The part of the format that is used here. Times in microseconds. */
export type TraceEvent =
  | { ph: "M"; name: string; pid: number; tid: number; args: Record<string, string | number> }
  | { ph: "C"; name: string; pid: number; tid: number; ts: number; args: Record<string, number> }
  | {
      ph: "X";
      name: string;
      cat: string;
      pid: number;
      tid: number;
      ts: number;
      dur: number;
      args: Record<string, unknown>;
    };

const pid = 1;
const stepTrack = 1;

/** Turns steps into events. Steps must come in the order in which the device runs them. */
export class TraceFormatter {
  readonly #tracks = new Map<string, number>();
  /** Time 0 of the timeline: the first submission. */
  #originMs: number | null = null;
  /** Until when the device had work already. */
  #busyUntilMs = -Infinity;

  /** The events of a step, those that name its new tracks included. */
  events(step: TraceStep): TraceEvent[] {
    const isFirst = this.#originMs === null;
    this.#originMs ??= step.submitMs;
    // A step is submitted while the one before still runs: it begins when that one ends. Events that overlap
    // without one being inside the other could not be drawn on one track.
    const startMs = Math.max(step.submitMs, this.#busyUntilMs);
    const span = { ts: this.#microseconds(startMs), dur: toMicroseconds(Math.max(0, step.doneMs - startMs)) };
    this.#busyUntilMs = Math.max(startMs, step.doneMs);
    return [
      ...(isFirst ? [processName(), ...trackNames(stepTrack, "steps")] : []),
      stepEvent(step, span, startMs - step.submitMs),
      ...step.rectangles.flatMap((rectangle) => this.#rectangleEvents(rectangle, { step, span })),
      ...counterEvents(step.counters, span.ts),
    ];
  }

  #rectangleEvents(
    { sequence, kind, tokens, passes }: TraceRectangle,
    { step, span }: { step: TraceStep; span: Span },
  ): TraceEvent[] {
    let tid = this.#tracks.get(sequence);
    const isNew = tid === undefined;
    tid ??= stepTrack + 1 + this.#tracks.size;
    this.#tracks.set(sequence, tid);
    const args = { step: step.index, tokens, passes };
    const event: TraceEvent = { ph: "X", name: kind, cat: "rectangle", pid, tid, ...span, args };
    return [...(isNew ? trackNames(tid, sequence) : []), event];
  }

  #microseconds(timeMs: number): number {
    return toMicroseconds(timeMs - (this.#originMs ?? 0));
  }
}

interface Span {
  ts: number;
  dur: number;
}

/** Whole nanoseconds are exact enough, and short. */
function toMicroseconds(milliseconds: number): number {
  return Math.round(milliseconds * 1e6) / 1e3;
}

function processName(): TraceEvent {
  return { ph: "M", name: "process_name", pid, tid: stepTrack, args: { name: "Prelude engine" } };
}

/** Tracks are shown in the order of their numbers, not of their names. */
function trackNames(tid: number, name: string): TraceEvent[] {
  return [
    { ph: "M", name: "thread_name", pid, tid, args: { name } },
    { ph: "M", name: "thread_sort_index", pid, tid, args: { sort_index: tid } },
  ];
}

function stepEvent({ index, rectangles }: TraceStep, span: Span, queuedMs: number): TraceEvent {
  const tokenCount = rectangles.reduce((sum, { tokens: [from, to] }) => sum + to - from, 0);
  const args = { rectangles: rectangles.length, tokens: tokenCount, queuedUs: toMicroseconds(queuedMs) };
  return { ph: "X", name: `step ${index}`, cat: "step", pid, tid: stepTrack, ...span, args };
}

function counterEvents({ running, waiting, kvBlocks }: TraceCounters, ts: number): TraceEvent[] {
  const counter = (name: string, args: Record<string, number>): TraceEvent => {
    return { ph: "C", name, pid, tid: stepTrack, ts, args };
  };
  return [
    counter("sequences", { running, waiting }),
    ...kvBlocks.map(({ used, cached, free }, group) =>
      counter(`KV blocks, group ${group}`, { used, cached, free }),
    ),
  ];
}
