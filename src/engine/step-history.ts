/** The last steps of the engine, for whoever looks. */
import { createHash } from "node:crypto";
import { STATS_STEPS_MAX } from "../limits.ts";
import type { StepRecord } from "./stats.ts";
import type { TraceRectangle } from "./trace-events.ts";

/** Hexadecimal digits that tell sequences apart: request ids are their clients' business. */
const nameLength = 8;

export interface FinishedStep extends Omit<StepRecord, "rectangles"> {
  rectangles: readonly TraceRectangle[];
}

export class StepHistory {
  readonly #steps: FinishedStep[] = [];

  add(step: FinishedStep): void {
    this.#steps.push(step);
    if (this.#steps.length > STATS_STEPS_MAX) this.#steps.shift();
  }

  /** Oldest first; sequences have names of their own. */
  records(): StepRecord[] {
    const names = new Map<string, string>();
    return this.#steps.map((step) => {
      const rectangles = step.rectangles.map((rectangle) => {
        return { ...rectangle, sequence: nameOf(rectangle.sequence, names) };
      });
      return { ...step, rectangles };
    });
  }
}

function nameOf(sequence: string, names: Map<string, string>): string {
  const known = names.get(sequence);
  if (known !== undefined) return known;
  const name = createHash("sha256").update(sequence).digest("hex").slice(0, nameLength);
  names.set(sequence, name);
  return name;
}
