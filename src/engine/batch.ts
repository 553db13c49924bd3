/**
 * A batch on its way through the model: its inputs, scratch and states on the device. A batch may stop after any pass
 * and go on in a later step, since nothing else writes to its scratch: that is what a layered prefill is.
 */
import type { Gpu } from "../gpu/gpu.ts";
import { sample } from "../gpu/kernels/sample.ts";
import type { Recorder } from "../gpu/recorder.ts";
import { rows, type Tensor } from "../gpu/tensor.ts";
import type { ForwardContext, StepTensors } from "./layers/context.ts";
import { Workspace } from "./layers/workspace.ts";
import type { DecoderModel } from "./models/model.ts";
import { RowEditor, type RowEdits } from "./row-edits.ts";
import { type BatchLimits, StepInputs } from "./step-inputs.ts";
import type { Rectangle } from "./step-plan.ts";

export interface BatchOptions {
  gpu: Gpu;
  model: DecoderModel;
  recorder: Recorder;
  limits: BatchLimits;
  /** By slot: the KV tensors, and the groups they belong to. */
  kv: readonly Tensor[];
  layerGroups: readonly number[];
}

/** Rows of a batch that has been recorded to its end, to be sampled. */
export interface BatchRows {
  /** f32 [rows, vocab] */
  logits: Tensor;
  /** u32 [rows]; written by `sample`. */
  sampled: Tensor;
  /** Records the changes to the logits, row by row, and the choice of an id from each, if any is to be chosen. */
  sample(edits?: readonly RowEdits[]): void;
}

export class Batch {
  readonly #options: BatchOptions;
  readonly #inputs: StepInputs;
  readonly #workspace: Workspace;
  readonly #rowSpace: Workspace;
  readonly #editor: RowEditor;

  constructor(options: BatchOptions) {
    const { gpu, limits, layerGroups } = options;
    this.#options = options;
    this.#inputs = new StepInputs(gpu.device, limits, Math.max(...layerGroups) + 1);
    this.#workspace = new Workspace(gpu.device, limits.tokens);
    this.#rowSpace = new Workspace(gpu.device, limits.rows);
    this.#editor = new RowEditor(gpu.device, options.recorder);
  }

  /**
   * Records passes `from` to `to` (all by default) of these rectangles. Gives their rows if that reaches the end and any
   * are wanted, else nothing.
   */
  record(batch: readonly Rectangle[], from = 0, to = this.#options.model.passes.length): BatchRows[] {
    const isSampled = batch.some(({ sampling }) => sampling.length > 0);
    return this.#record(this.#inputs.write(batch), { from, to, isSampled });
  }

  /** Records a batch of this many tokens and one sampled row, whatever the inputs hold: for compiling ahead. */
  recordShape(tokens: number): void {
    const step = this.#inputs.shaped(Math.min(tokens, this.#options.limits.tokens), 1);
    const rows = this.#record(step, { from: 0, to: this.#options.model.passes.length, isSampled: true });
    for (const row of rows) row.sample();
  }

  #record(
    step: StepTensors,
    { from, to, isSampled }: { from: number; to: number; isSampled: boolean },
  ): BatchRows[] {
    const { model, recorder, gpu, kv, layerGroups } = this.#options;
    const { traits } = gpu;
    const context: ForwardContext = {
      traits,
      recorder,
      workspace: this.#workspace,
      rowSpace: this.#rowSpace,
      step,
      tokens: step.tokenIds.shape[0],
      rows: step.logitRows.shape[0],
      kv,
      layerGroups,
    };
    if (from === 0) model.embed(context);
    for (const pass of model.passes.slice(from, to)) pass(context);
    if (to < model.passes.length || context.rows === 0) return [];
    const logits = model.head(context);
    const sampled = rows(step.sampled, context.rows);
    const record = (edits: readonly RowEdits[] = []) => {
      this.#editor.record(traits, { edits, logits });
      if (isSampled) recorder.add(sample(traits, { logits, settings: step.settings, sampled }));
    };
    return [{ logits, sampled, sample: record }];
  }
}
