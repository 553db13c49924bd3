import type { BlockCopy } from "../kv-cache/kv-manager.ts";
import {
  type LayeredStep,
  type Observation,
  observedRows,
  type Rectangle,
  rectangleRows,
  type RowSampling,
  sampledRow,
  type StepPlan,
} from "../step-plan.ts";
import type { Room } from "./cuts.ts";
import type { SchedulerLimits } from "./request.ts";
import type { Sequence } from "./sequence.ts";

/** A step being planned: what is in it so far, and what its budget leaves. Work is in tokens times passes. */
export class PlanDraft {
  readonly id: number;
  readonly sequences = new Set<Sequence>();
  /** Whether anything was left out because KV blocks are short. */
  isShortOfBlocks = false;
  readonly #limits: SchedulerLimits;
  readonly #copies: BlockCopy[] = [];
  readonly #main: Rectangle[] = [];
  readonly #mainSampled: Sequence[] = [];
  readonly #layeredSampled: Sequence[] = [];
  #layered: LayeredStep | null = null;
  #rows = 0;
  #promptRows = 0;
  #work = 0;

  constructor(id: number, limits: SchedulerLimits) {
    this.id = id;
    this.#limits = limits;
  }

  get isEmpty(): boolean {
    return this.sequences.size === 0;
  }

  /** Work that the budget leaves; negative after a layered pass that was due. */
  get room(): number {
    return this.#limits.maxBatchedTokens * this.#limits.passCount - this.#work;
  }

  /** Whole tokens, through all passes, that the budget leaves. */
  get tokenRoom(): number {
    return Math.max(0, Math.floor(this.room / this.#limits.passCount));
  }

  /** What the budget leaves of tokens, and the step of rows of prompts' own logits. */
  get cutRoom(): Room {
    const { promptRowsMax = Infinity } = this.#limits;
    return { tokens: this.tokenRoom, promptRows: promptRowsMax - this.#promptRows };
  }

  /** A step has one layered batch at most. */
  get hasLayered(): boolean {
    return this.#layered !== null;
  }

  copy(copies: readonly BlockCopy[]): void {
    this.#copies.push(...copies);
  }

  /** The token that follows what is computed: the last known id, or `row` of the step before. */
  addDecode(sequence: Sequence, row: number | null): void {
    const id = row === null ? sequence.knownIds[sequence.computed] : sampledRow(row);
    const rows = this.#addMain(sequence, { start: sequence.computed, tokenIds: [id] }, true);
    this.expect(sequence, rows);
  }

  /** Known tokens, up to `end`, through all passes. Returns the row of the first answer, if the last one is there. */
  addPrefill(sequence: Sequence, end: number): number {
    const { computed: start, knownIds } = sequence;
    return this.#addMain(sequence, { start, tokenIds: knownIds.slice(start, end) }, end === knownIds.length);
  }

  /** Passes `from` to `to` of the tokens up to `end`. */
  addLayered(sequence: Sequence, end: number, { from, to }: { from: number; to: number }): void {
    const { computed: start, knownIds } = sequence;
    const isSampled = to === this.#limits.passCount && end === knownIds.length;
    const tokens = { start, tokenIds: knownIds.slice(start, end) };
    const rectangle = rectangleOf(sequence, tokens, isSampled);
    // There is nothing to see before the last pass.
    const observation = to === this.#limits.passCount ? observationOf(sequence, tokens) : {};
    this.#layered = { rectangle: { ...rectangle, ...observation }, from, to };
    this.sequences.add(sequence);
    this.#work += (end - start) * (to - from);
  }

  /** Tells whose the id of a sampled row is: for each such row, in order. `row` is null in the layered batch. */
  expect(sequence: Sequence, row: number | null): void {
    sequence.pending.push({ plan: this.id, row });
    (row === null ? this.#layeredSampled : this.#mainSampled).push(sequence);
  }

  /** The plan, and the sequences of its sampled rows in the order of the ids. */
  finish(): { plan: StepPlan; sampled: Sequence[] } {
    const plan = {
      id: this.id,
      copies: this.#copies,
      main: this.#main,
      layered: this.#layered,
      cost: this.#work / this.#limits.passCount,
    };
    return { plan, sampled: [...this.#mainSampled, ...this.#layeredSampled] };
  }

  /** Returns the rectangle's first row. */
  #addMain(sequence: Sequence, tokens: Pick<Rectangle, "start" | "tokenIds">, isSampled: boolean): number {
    const rectangle = { ...rectangleOf(sequence, tokens, isSampled), ...observationOf(sequence, tokens) };
    const firstRow = this.#rows;
    this.#main.push(rectangle);
    this.sequences.add(sequence);
    this.#work += rectangle.tokenIds.length * this.#limits.passCount;
    this.#rows += rectangleRows(rectangle);
    this.#promptRows += observedRows(rectangle);
    return firstRow;
  }
}

function rectangleOf(
  sequence: Sequence,
  tokens: Pick<Rectangle, "start" | "tokenIds">,
  isSampled: boolean,
): Rectangle {
  const { request, shared, choice, writeStart, kv } = sequence;
  return {
    requestId: request.id,
    choice,
    ...tokens,
    writeStart: Math.max(writeStart, tokens.start),
    prefixLength: shared.prefixLength,
    // As they are now: blocks that only queries of this step still see are given back when it is planned.
    tables: kv.tables.map((table) => [...table]),
    logits: isSampled ? "last" : "none",
    sampling: isSampled ? samplingOf(sequence) : [],
  };
}

/** What of an observed prompt these tokens give. */
function observationOf(
  { request, unobserved }: Sequence,
  { start, tokenIds }: Pick<Rectangle, "start" | "tokenIds">,
): { observed?: Observation } {
  const { id, promptOutput: output } = request;
  if (output === undefined || !unobserved) return {};
  if (start > unobserved.start)
    throw new Error(`Cannot observe request ${id} from ${unobserved.start}: its tokens start at ${start}`);
  const end = Math.min(unobserved.end, start + tokenIds.length);
  return end > unobserved.start ? { observed: { output, start: unobserved.start, end } } : {};
}

/** Random numbers are counted by the length of the answer alone, so that they do not depend on how it came about. */
function samplingOf({ request, choice, answerCount, sampledCount }: Sequence): RowSampling[] {
  return request.answers
    .slice(choice, choice + answerCount)
    .map((answer) => ({ ...answer, step: sampledCount }));
}
