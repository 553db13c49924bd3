/** A step plan as rectangles of the timeline. */
import type { Rectangle, StepPlan } from "./step-plan.ts";
import type { RectangleKind, TraceRectangle } from "./trace-events.ts";

/** Whether a chunk is prompt or the replay of an output is not in a plan: both are chunks here. */
export function traceRectangles({ main, layered }: StepPlan, passCount: number): TraceRectangle[] {
  const whole = main.map((rectangle) => toRectangle(rectangle, kindOf(rectangle), [0, passCount]));
  if (!layered) return whole;
  return [...whole, toRectangle(layered.rectangle, "layered", [layered.from, layered.to])];
}

function kindOf({ start, tokenIds }: Rectangle): RectangleKind {
  if (start === 0) return "prefill";
  return tokenIds.length === 1 ? "decode" : "chunk";
}

function toRectangle(
  { requestId, choice, start, tokenIds }: Rectangle,
  kind: RectangleKind,
  passes: TraceRectangle["passes"],
): TraceRectangle {
  return { sequence: `${requestId} ${choice}`, kind, tokens: [start, start + tokenIds.length], passes };
}
