/** Turns a step plan into dispatches and submits them. Owns the KV tensors and scratch; decides nothing. */
import { BlockCopier } from "../gpu/block-copier.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import { decodePassSpec } from "../gpu/kernels/decode-pass.ts";
import type { Profiler } from "../gpu/profile.ts";
import { ReadbackRing } from "../gpu/readback.ts";
import { Recorder } from "../gpu/recorder.ts";
import { createTensor, type Tensor, writeTensor } from "../gpu/tensor.ts";
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

  /** Whether a layer pass of one token is a single dispatch, as found when kernels were compiled. */
  get decodesInOne(): boolean {
    return this.#gpu.traits.residentWorkgroups !== undefined && this.#main.handoffs.length > 0;
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
    const haveMet = this.#watchHandoffs();
    this.#recorder.submit();
    const readAll = async (name: Wanted) => {
      const bytes = await this.#readAll(reads.get(name), name);
      await haveMet();
      return bytes;
    };
    return {
      sampled: async () => new Uint32Array(await readAll("sampled")),
      logits: async () => new Float32Array(await readAll("logits")),
      promptLogits: async () => new Float32Array(await readAll("promptLogits")),
      stateSums: async () => new Float32Array(await readAll("stateSums")),
    };
  }

  /**
   * Has what comes back with the next submission tell whether a workgroup waited in vain for another: then no result since
   * is to be used. That they run at once was seen when kernels were compiled.
   */
  #watchHandoffs(): () => Promise<void> {
    const handoffs = [this.#main, this.#layered].flatMap((batch) => batch.handoffs);
    const reads = handoffs.map((words) => this.#readback.request(this.#recorder, { ...words, shape: [2] }));
    let found: Promise<void> | undefined;
    return () => (found ??= this.#checkHandoffs(reads));
  }

  async #checkHandoffs(reads: readonly Read[]): Promise<void> {
    for (const read of reads) {
      if (new Uint32Array(await read())[1] > 0) {
        throw this.#gpu.fail("workgroups of decode-pass do not run at once any more");
      }
    }
  }

  #copyBlocks({ copies }: RunnablePlan): void {
    for (const { group, from, to } of copies) {
      const tensors = this.#policy.groups[group].layers.map((slot) => this.#kv[slot]);
      this.#copier.copy(this.#recorder, tensors, { from, to });
    }
  }

  /**
   * Both batches; those that reach their end with rows, in the order in which these are read. Nothing is recorded before
   * it is known that both can be, since what is recorded may be submitted at once.
   */
  #record({ main, layered, edits }: RunnablePlan): RecordedRows[] {
    const nothing = () => [];
    const recordMain = main.length > 0 ? this.#main.prepare(main) : nothing;
    const recordLayered = layered
      ? this.#layered.prepare([layered.rectangle], layered.from, layered.to)
      : nothing;
    return [
      ...recordMain().map((rows) => ({ rows, edits: edits?.main })),
      ...recordLayered().map((rows) => ({ rows, edits: edits?.layered })),
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
    if (!(await this.#rehearse(dispatches))) {
      this.#gpu.useResidentWorkgroups(undefined);
      await this.compile(tokenCounts, onProgress);
    }
  }

  /** Runs each kernel whose workgroups wait for each other once; false if they waited in vain. */
  async #rehearse(dispatches: readonly Dispatch[]): Promise<boolean> {
    const { pipelines, device } = this.#gpu;
    const passes = dispatches.filter(({ spec }) => spec === decodePassSpec);
    const byPipeline = new Map(passes.map((pass) => [pipelines.get(pass).id, pass]));
    for (const pass of byPipeline.values()) {
      const { handoff } = pass.tensors;
      this.#recorder.add(pass);
      const read = this.#readback.request(this.#recorder, { ...handoff, shape: [2] });
      this.#recorder.submit();
      if (new Uint32Array(await read())[1] > 0) {
        writeTensor(device, handoff, new Uint32Array(2));
        return false;
      }
    }
    return true;
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
