/** Turns a step plan into dispatches and submits them. Owns the KV tensors and scratch; decides nothing. */
import { BlockCopier } from "../gpu/block-copier.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import type { Profiler } from "../gpu/profile.ts";
import { ReadbackRing } from "../gpu/readback.ts";
import { Recorder } from "../gpu/recorder.ts";
import { createTensor, type Tensor } from "../gpu/tensor.ts";
import { Batch, type BatchRows } from "./batch.ts";
import type { KvPolicy } from "./kv-cache/aggregate.ts";
import type { KvCacheSpec } from "./kv-cache/spec.ts";
import type { DecoderModel } from "./models/model.ts";
import { isEdit, type RowEdits } from "./row-edits.ts";
import type { BatchLimits } from "./step-inputs.ts";
import type { StepPlan } from "./step-plan.ts";

export interface RunnerOptions {
  gpu: Gpu;
  model: DecoderModel;
  limits: BatchLimits;
  /** Most tokens of a layered prefill. */
  layeredTokens: number;
  kvSpecs: readonly KvCacheSpec[];
  policy: KvPolicy;
  /** KV blocks of each group, the null block included. */
  blockCounts: readonly number[];
  profiler?: Profiler;
}

/** What a submitted step gives back, each read when asked for; a step's results must be read before the next but one. */
export interface StepResult {
  /** An id for each row that was to be sampled: those of the main batch, then those of the layered one. */
  sampled: () => Promise<Uint32Array>;
  /** f32 [rows, vocab], row by row, in the same order. */
  logits: () => Promise<Float32Array>;
  /** f32 [rows, vocab]: of the prompts of the main batch that are observed, in order. */
  promptLogits: () => Promise<Float32Array>;
  /** f32 [prompts, hidden]: of those whose states are observed, the main batch's first. */
  stateSums: () => Promise<Float32Array>;
}

/** Which results will be read; what is not named is not copied. */
export type Wanted = keyof StepResult;

/** What the runner needs of a plan; a plan that no scheduler made has no id and no cost. */
export type RunnablePlan = Pick<StepPlan, "copies" | "main" | "layered"> & {
  /** What to change about the logits of each row before it is sampled; left out, nothing. */
  edits?: { main: readonly RowEdits[]; layered: readonly RowEdits[] };
};

type Read = () => Promise<ArrayBuffer>;

/** The rows of a batch, and what to change about them. */
interface RecordedRows {
  rows: BatchRows;
  edits: readonly RowEdits[] | undefined;
}

export class Runner {
  readonly limits: BatchLimits;
  /** Layer passes of the model. */
  readonly passCount: number;
  readonly #gpu: Gpu;
  readonly #recorder: Recorder;
  readonly #readback: ReadbackRing;
  readonly #copier: BlockCopier;
  readonly #main: Batch;
  readonly #layered: Batch;
  readonly #layeredTokens: number;
  readonly #kv: readonly Tensor[];
  readonly #policy: KvPolicy;

  constructor(options: RunnerOptions) {
    const { gpu, model, limits, layeredTokens, policy } = options;
    this.limits = limits;
    this.#layeredTokens = layeredTokens;
    this.passCount = model.passes.length;
    this.#gpu = gpu;
    this.#policy = policy;
    this.#recorder = new Recorder(gpu, options.profiler);
    this.#readback = new ReadbackRing(gpu);
    this.#copier = new BlockCopier(gpu.device);
    this.#kv = allocateKv(options);
    const { layerGroups } = policy;
    const common = { gpu, model, recorder: this.#recorder, kv: this.#kv, layerGroups };
    this.#main = new Batch({ ...common, limits });
    this.#layered = new Batch({ ...common, limits: { ...limits, tokens: layeredTokens, sequences: 1 } });
  }

  /**
   * Submits a step and returns at once. Steps run in order, each seeing the KV writes and sampled ids of those before.
   * Throws RangeError when the plan is over a limit, `DeviceLostError` on a failed device.
   */
  run(plan: RunnablePlan, ...wanted: Wanted[]): StepResult {
    try {
      return this.#submit(plan, wanted);
    } catch (error) {
      // Half a plan must not go with the next one.
      this.#recorder.take();
      throw error;
    }
  }

  /** Gives the KV cache's memory back; nothing can be run after it. */
  release(): void {
    for (const { buffer, scales } of this.#kv) {
      buffer.gpu.destroy();
      scales?.buffer.gpu.destroy();
    }
  }

  #submit(plan: RunnablePlan, wanted: readonly Wanted[]): StepResult {
    this.#copyBlocks(plan);
    const done = this.#record(plan);
    const reads = new Map<Wanted, Read[]>();
    const request = (name: Wanted) => {
      if (!wanted.includes(name)) return;
      const tensors = done.flatMap(({ rows }) => rows[name] ?? []);
      reads.set(
        name,
        tensors.map((tensor) => this.#readback.request(this.#recorder, tensor)),
      );
    };
    request("logits");
    request("promptLogits");
    request("stateSums");
    // Logits are read as the model gave them: what changes them goes into a submission of its own.
    if (wanted.includes("logits") && done.some(({ edits }) => edits?.some(isEdit))) this.#recorder.submit();
    for (const { rows, edits } of done) rows.sample(edits);
    request("sampled");
    this.#recorder.submit();
    return {
      sampled: async () => new Uint32Array(await this.#readAll(reads.get("sampled"), "sampled")),
      logits: async () => new Float32Array(await this.#readAll(reads.get("logits"), "logits")),
      promptLogits: async () =>
        new Float32Array(await this.#readAll(reads.get("promptLogits"), "promptLogits")),
      stateSums: async () => new Float32Array(await this.#readAll(reads.get("stateSums"), "stateSums")),
    };
  }

  #copyBlocks({ copies }: RunnablePlan): void {
    for (const { group, from, to } of copies) {
      const tensors = this.#policy.groups[group].layers.map((slot) => this.#kv[slot]);
      this.#copier.copy(this.#recorder, tensors, { from, to });
    }
  }

  /** Both batches; those that reach their end with rows, in the order in which these are read. */
  #record({ main, layered, edits }: RunnablePlan): RecordedRows[] {
    const ofMain = main.length > 0 ? this.#main.record(main) : [];
    const ofLayered = layered ? this.#layered.record([layered.rectangle], layered.from, layered.to) : [];
    return [
      ...ofMain.map((rows) => ({ rows, edits: edits?.main })),
      ...ofLayered.map((rows) => ({ rows, edits: edits?.layered })),
    ];
  }

  /** What a step would submit, which is not: its inputs are on the device, its dispatches may be run by themselves. */
  dispatchesOf(plan: RunnablePlan): Dispatch[] {
    this.#record(plan);
    return this.#recorder.take();
  }

  /** Compiles every pipeline that steps of these token counts need, and allocates the scratch of both batches. */
  async compile(
    tokenCounts: readonly number[],
    onProgress?: (done: number, all: number) => void,
  ): Promise<void> {
    const dispatches: Dispatch[] = [];
    for (const count of tokenCounts) {
      this.#main.recordShape(count);
      dispatches.push(...this.#recorder.take());
    }
    // A layered prefill has scratch of its own: better allocated now than in the middle of other answers.
    if (this.#layeredTokens > 1) {
      this.#layered.recordShape(this.#layeredTokens);
      dispatches.push(...this.#recorder.take());
    }
    await this.#gpu.pipelines.compile(dispatches, onProgress);
  }

  /** The bytes of both batches, one after the other. A step without rows is waited for. */
  async #readAll(reads: Read[] | undefined, name: Wanted): Promise<ArrayBuffer> {
    if (!reads) throw new Error(`Cannot read ${name} of a step that was not asked for it`);
    if (reads.length === 0) await this.#gpu.device.queue.onSubmittedWorkDone();
    this.#gpu.assertAlive();
    const buffers = await Promise.all(reads.map((read) => read()));
    return buffers.length === 1 ? buffers[0] : new Blob(buffers).arrayBuffer();
  }
}

function allocateKv({ gpu, kvSpecs, policy, blockCounts }: RunnerOptions): Tensor[] {
  return kvSpecs.map(({ blockSize, kvHeads, headDim, dtype }, slot) => {
    const places = [blockCounts[policy.layerGroups[slot]], 2, blockSize];
    const name = `kv-${slot}`;
    const kv = createTensor(gpu.device, {
      name,
      dtype,
      shape: [...places, kvHeads * headDim],
      readable: true,
    });
    if (dtype !== "i8") return kv;
    const shape = [...places, kvHeads];
    const scales = createTensor(gpu.device, { name: `${name}.scales`, dtype: "f32", shape, readable: true });
    return { ...kv, scales };
  });
}
