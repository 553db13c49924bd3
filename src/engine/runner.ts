/** Turns a step plan into dispatches and submits them. Owns the KV tensors and scratch; decides nothing. */
import type { Gpu } from "../gpu/gpu.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import { sample } from "../gpu/kernels/sample.ts";
import type { Profiler } from "../gpu/profile.ts";
import { ReadbackRing } from "../gpu/readback.ts";
import { Recorder } from "../gpu/recorder.ts";
import { createTensor, rows, type Tensor } from "../gpu/tensor.ts";
import type { KvCacheSpec, KvDtype } from "./kv-cache/spec.ts";
import { causalMetadata } from "./layers/attention.ts";
import type { ForwardContext, StepTensors } from "./layers/context.ts";
import { neverCausal } from "./layers/prefill-prefix-lm-attention.ts";
import { Workspace } from "./layers/workspace.ts";
import type { DecoderModel } from "./models/model.ts";
import { StepInputs, type StepLimits } from "./step-inputs.ts";
import type { SequenceStep } from "./step-plan.ts";

export interface RunnerOptions {
  gpu: Gpu;
  model: DecoderModel;
  limits: StepLimits;
  kvDtype: KvDtype;
  /** KV blocks in all. */
  blockCount: number;
  profiler?: Profiler;
}

/** What a submitted step gives back, each read when asked for; a step's results must be read before the next but one. */
export interface StepResult {
  /** An id for each row that was to be sampled, in row order. */
  sampled: () => Promise<Uint32Array>;
  /** f32 [rows, vocab], row by row. */
  logits: () => Promise<Float32Array>;
}

/** Which results will be read; what is not named is not copied. */
export type Wanted = keyof StepResult;

export class Runner {
  /** The KV specs of all layers, in slot order. */
  readonly kvSpecs: readonly KvCacheSpec[];
  readonly limits: StepLimits;
  readonly #gpu: Gpu;
  readonly #model: DecoderModel;
  readonly #recorder: Recorder;
  readonly #readback: ReadbackRing;
  readonly #inputs: StepInputs;
  readonly #workspace: Workspace;
  readonly #rowSpace: Workspace;
  readonly #kv: readonly Tensor[];

  constructor({ gpu, model, limits, kvDtype, blockCount, profiler }: RunnerOptions) {
    const builders = { causal: causalMetadata, prefix: neverCausal(causalMetadata) };
    this.limits = limits;
    this.#gpu = gpu;
    this.#model = model;
    this.#recorder = new Recorder(gpu, profiler);
    this.#readback = new ReadbackRing(gpu);
    this.#inputs = new StepInputs(gpu.device, limits, builders);
    this.#workspace = new Workspace(gpu.device, limits.tokens);
    this.#rowSpace = new Workspace(gpu.device, limits.rows);
    this.kvSpecs = model.attentions.map((layer) =>
      layer.getKvCacheSpec({ blockSize: limits.blockSize, dtype: kvDtype }),
    );
    this.#kv = this.kvSpecs.map(({ blockSize, kvHeads, headDim, dtype }, slot) =>
      createTensor(gpu.device, {
        name: `kv-${slot}`,
        dtype,
        shape: [blockCount, 2, blockSize, kvHeads * headDim],
      }),
    );
  }

  /**
   * Submits a step and returns at once. Steps run in order, each seeing the KV writes and sampled ids of those before.
   * Throws RangeError when the plan is over a limit, `DeviceLostError` on a failed device.
   */
  run(plan: readonly SequenceStep[], ...wanted: Wanted[]): StepResult {
    const step = this.#inputs.write(plan);
    const logits = this.#record(
      step,
      plan.some(({ sampling }) => sampling),
    );
    const reads: Partial<Record<Wanted, () => Promise<ArrayBuffer>>> = {};
    if (wanted.includes("sampled")) {
      const sampled = rows(step.sampled, step.logitRows.shape[0]);
      reads.sampled = this.#readback.request(this.#recorder, sampled);
    }
    if (wanted.includes("logits") && logits) reads.logits = this.#readback.request(this.#recorder, logits);
    this.#recorder.submit();
    return {
      sampled: async () => new Uint32Array(await read(reads, "sampled")),
      logits: async () => new Float32Array(await read(reads, "logits")),
    };
  }

  /** Compiles every pipeline that steps of these token counts need. */
  async compile(
    tokenCounts: readonly number[],
    onProgress?: (done: number, all: number) => void,
  ): Promise<void> {
    const dispatches: Dispatch[] = [];
    for (const count of tokenCounts) {
      this.#record(this.#inputs.shaped(Math.min(count, this.limits.tokens), 1), true);
      dispatches.push(...this.#recorder.take());
    }
    await this.#gpu.pipelines.compile(dispatches, onProgress);
  }

  /** Records all passes; returns the logits, if any row is wanted. */
  #record(step: StepTensors, isSampled: boolean): Tensor | undefined {
    const { traits } = this.#gpu;
    const context: ForwardContext = {
      traits,
      recorder: this.#recorder,
      workspace: this.#workspace,
      rowSpace: this.#rowSpace,
      step,
      tokens: step.tokenIds.shape[0],
      rows: step.logitRows.shape[0],
      kv: this.#kv,
    };
    this.#model.embed(context);
    for (const pass of this.#model.passes) pass(context);
    if (context.rows === 0) return undefined;
    const logits = this.#model.head(context);
    const sampled = rows(step.sampled, context.rows);
    if (isSampled) this.#recorder.add(sample(traits, { logits, settings: step.settings, sampled }));
    return logits;
  }
}

async function read(
  reads: Partial<Record<Wanted, () => Promise<ArrayBuffer>>>,
  name: Wanted,
): Promise<ArrayBuffer> {
  const request = reads[name];
  if (!request) throw new Error(`Cannot read ${name} of a step that was not asked for it`);
  return request();
}
