/**
 * A batch on its way through the model: its inputs, scratch and states on the device. A batch may stop after any pass
 * and go on in a later step, since nothing else writes to its scratch: that is what a layered prefill is.
 */
import type { Gpu } from "../gpu/gpu.ts";
import { fusedTokensMax } from "../gpu/kernels/fused-linear.ts";
import { sample } from "../gpu/kernels/sample.ts";
import { sumPool } from "../gpu/kernels/sum-pool.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import type { Program, Recorder } from "../gpu/recorder.ts";
import { rows, rowsFrom, type Tensor } from "../gpu/tensor.ts";
import type { ForwardContext, StepTensors } from "./layers/context.ts";
import { ResidualStream } from "./layers/residual-stream.ts";
import { Workspace } from "./layers/workspace.ts";
import type { DecoderModel } from "./models/model.ts";
import { RowEditor, type RowEdits } from "./row-edits.ts";
import { type BatchLimits, StepInputs } from "./step-inputs.ts";
import { isPooled, observedRowCount, type Rectangle, rowCount } from "./step-plan.ts";

export interface BatchOptions {
  gpu: Pick<Gpu, "device" | "traits">;
  model: DecoderModel;
  recorder: Recorder;
  limits: BatchLimits;
  /** By slot: the KV tensors, and the groups they belong to. */
  kv: readonly Tensor[];
  layerGroups: readonly number[];
}

/** What a batch that has been recorded to its end gives; a tensor without rows is left out. */
export interface BatchRows {
  /** f32 [rows, vocab] */
  logits?: Tensor;
  /** u32 [rows]; written by `sample`. */
  sampled?: Tensor;
  /** f32 [rows, vocab], of the prompts that are observed; to be copied, not bound. */
  promptLogits?: Tensor;
  /** f32 [pools, hidden]: sums of the final states of the prompts that are observed. */
  stateSums?: Tensor;
  /** Records the changes to the logits, row by row, and the choice of an id from each, if any is to be chosen. */
  sample(edits?: readonly RowEdits[]): void;
}

/** What a recorded batch leaves, if it reaches the end and it is wanted. */
interface Recording {
  logits: Tensor | null;
  stateSums: Tensor | null;
}

/** Where dispatches go; `flush` where the device may begin before the step has been recorded to its end. */
interface Sink {
  add(dispatch: Dispatch): void;
  flush?(): void;
}

/**
 * Passes after which a step is flushed next, of which so many have been. The first goes alone, since the device has
 * nothing to do until then; then it gets half as much again as it has had, which the host of an H100 records while the
 * device runs a prompt of 1,024 tokens (0.2 ms a pass of HRM-Text-1B for 0.38).
 */
function nextFlush(passes: number): number {
  return Math.min(Math.ceil(1.5 * passes), passes + 16);
}

/** Decode batches of this many sizes are kept ready to encode. */
const programsMax = 64;

interface PassRange {
  from: number;
  to: number;
}

interface WantedRows {
  isSampled: boolean;
  rows: number;
  /** Rows behind these, of prompts that are observed. */
  promptRows: number;
}

export class Batch {
  readonly #options: BatchOptions;
  /** By size of a decode batch, the least recently used first. */
  readonly #programs = new Map<string, { program: Program; logits: Tensor }>();
  readonly #inputs: StepInputs;
  readonly #workspace: Workspace;
  readonly #rowSpace: Workspace;
  readonly #poolSpace: Workspace;
  readonly #editor: RowEditor;

  constructor(options: BatchOptions) {
    const { gpu, model, limits, layerGroups } = options;
    this.#options = options;
    const { queryHeads: heads } = model.config;
    this.#inputs = new StepInputs(gpu.device, limits, { groups: Math.max(...layerGroups) + 1, heads });
    this.#workspace = new Workspace(gpu.device, limits.tokens);
    this.#rowSpace = new Workspace(gpu.device, limits.rows);
    this.#poolSpace = new Workspace(gpu.device, limits.sequences);
    this.#editor = new RowEditor(gpu.device, options.recorder);
  }

  /**
   * Writes the inputs of these rectangles, and gives what then records their passes `from` to `to` (all by default). That
   * gives their rows if it reaches the end and any are wanted, else nothing. Throws RangeError when they are over a limit.
   */
  prepare(
    batch: readonly Rectangle[],
    from = 0,
    to = this.#options.model.passes.length,
  ): () => readonly BatchRows[] {
    const step = this.#inputs.write(batch);
    return () => this.#record(batch, step, { from, to });
  }

  #record(batch: readonly Rectangle[], step: StepTensors, { from, to }: PassRange): BatchRows[] {
    const isSampled = batch.some(({ sampling }) => sampling.length > 0);
    const wanted = { isSampled, rows: rowCount(batch), promptRows: observedRowCount(batch) };
    const keysBound = powerOfTwo(Math.max(...batch.map(({ start, tokenIds }) => start + tokenIds.length)));
    const isDecode = from === 0 && batch.every(isDecodeStep);
    const replayed = isDecode ? this.#replay(step, keysBound) : null;
    if (replayed) return [this.#rows(step, replayed, wanted)];
    const { logits, stateSums } = this.#recordPasses(step, { from, to, keysBound }, this.#options.recorder);
    if (!logits && !stateSums) return [];
    const rows = logits ? this.#rows(step, logits, wanted) : { sample: () => {} };
    return [{ ...rows, ...(stateSums && { stateSums }) }];
  }

  /** What workgroups that wait for each other hand over; [1] is set if one has waited in vain. */
  get handoffs(): readonly Tensor[] {
    return this.#workspace.allWords;
  }

  /** Records batches of this many tokens and one sampled row, whatever the inputs hold: for compiling ahead. */
  recordShape(count: number): void {
    const { limits, model, recorder } = this.#options;
    const tokens = Math.min(count, limits.tokens);
    const to = model.passes.length;
    for (const isDecode of tokens > 1 ? [false, true] : [true]) {
      const step = this.#inputs.shaped(tokens, { isDecode });
      for (const keysBound of keyBounds(tokens, limits)) {
        const sink = { add: (dispatch: Dispatch) => recorder.add(dispatch) };
        const { logits } = this.#recordPasses(step, { from: 0, to, keysBound }, sink);
        if (logits) this.#rows(step, logits, { isSampled: true, rows: 1, promptRows: 0 }).sample();
      }
    }
  }

  /**
   * Records a whole decode step as a program, made when its size comes for the first time: all that differs from step to
   * step is in the inputs. Gives the logits, or null if none are wanted.
   */
  #replay(step: StepTensors, keysBound: number): Tensor | null {
    const { model, recorder } = this.#options;
    const key = `${step.tokenIds.shape[0]} ${step.logitRows.shape[0]} ${keysBound}`;
    let found = this.#programs.get(key);
    if (!found) {
      const dispatches: Dispatch[] = [];
      const sink = { add: (dispatch: Dispatch) => dispatches.push(dispatch) };
      const range = { from: 0, to: model.passes.length, keysBound };
      const { logits } = this.#recordPasses(step, range, sink);
      if (!logits) return null;
      found = { program: recorder.program(dispatches), logits };
    }
    this.#programs.delete(key);
    this.#programs.set(key, found);
    const [oldest] = this.#programs.keys();
    if (this.#programs.size > programsMax) this.#programs.delete(oldest);
    recorder.add(found.program);
    return found.logits;
  }

  #recordPasses(
    step: StepTensors,
    { from, to, keysBound }: PassRange & { keysBound: number },
    sink: Sink,
  ): Recording {
    const { model, gpu, kv, layerGroups } = this.#options;
    const [tokens] = step.tokenIds.shape;
    const context: ForwardContext = {
      traits: gpu.traits,
      recorder: sink,
      stream: new ResidualStream(this.#workspace.tensor("stream", tokens, model.config.hiddenSize)),
      workspace: this.#workspace,
      rowSpace: this.#rowSpace,
      step,
      tokens,
      keysBound,
      rows: step.logitRows.shape[0],
      kv,
      layerGroups,
    };
    if (from === 0) model.embed(context);
    let flushAt = 1;
    model.passes.slice(from, to).forEach((pass, index) => {
      if (index === flushAt) {
        sink.flush?.();
        flushAt = nextFlush(flushAt);
      }
      pass(context);
    });
    // The next pass may be another step's.
    context.stream.whole(context);
    const isWhole = to === model.passes.length;
    const stateSums = isWhole && step.pools.shape[0] > 0 ? this.#poolStates(context) : null;
    return { logits: isWhole && context.rows > 0 ? model.head(context) : null, stateSums };
  }

  #poolStates(context: ForwardContext): Tensor {
    const { traits, recorder, step } = context;
    const states = this.#options.model.finalStates(context);
    const sums = this.#poolSpace.tensor("state-sums", step.pools.shape[0], states.shape[1]);
    recorder.add(sumPool(traits, { ranges: step.pools, x: states, y: sums }));
    return sums;
  }

  #rows(step: StepTensors, all: Tensor, { isSampled, rows: count, promptRows }: WantedRows): BatchRows {
    const { recorder, gpu } = this.#options;
    const promptLogits = promptRows > 0 ? { promptLogits: rowsFrom(all, count) } : {};
    if (count === 0) return { ...promptLogits, sample: () => {} };
    const [logits, settings, sampled] = [all, step.settings, step.sampled].map((tensor) =>
      rows(tensor, count),
    );
    const record = (edits: readonly RowEdits[] = []) => {
      this.#editor.record(gpu.traits, { edits, logits });
      if (isSampled) recorder.add(sample(gpu.traits, { logits, settings, sampled }));
    };
    return { logits, sampled, ...promptLogits, sample: record };
  }
}

/** The bounds that come up; kernels for few tokens have variants by them. */
function keyBounds(tokens: number, { blocksPerSequence, blockSize }: BatchLimits): number[] {
  const most = powerOfTwo(blocksPerSequence * blockSize);
  if (tokens > fusedTokensMax) return [most];
  return Array.from({ length: Math.log2(most) + 1 }, (_, power) => 2 ** power);
}

function powerOfTwo(atLeast: number): number {
  return 2 ** Math.ceil(Math.log2(atLeast));
}

function isDecodeStep(rectangle: Rectangle): boolean {
  return rectangle.tokenIds.length === 1 && !isPooled(rectangle);
}
