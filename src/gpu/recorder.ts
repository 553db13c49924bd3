/**
 * Collects the dispatches of a step and submits them as one compute pass.
 *
 * Params of all dispatches lie in one uniform buffer that is written once a submission; bind groups are cached by
 * pipeline layout and buffers, so a repeated step creates nothing. A dispatch sees the writes of those before it
 * (WebGPU orders dispatches of a pass by the buffers they share). Copies between buffers cannot be part of a pass:
 * they come before all of its dispatches, or after.
 */
import type { Gpu } from "./gpu.ts";
import type { Dispatch } from "./kernel.ts";
import type { Pipeline } from "./pipelines.ts";
import type { Profiler } from "./profile.ts";
import { align } from "./tensor.ts";

const paramBytesMax = 64;

type RecordCommands = (encoder: GPUCommandEncoder) => void;

export class Recorder {
  readonly #gpu: Gpu;
  readonly #profiler: Profiler | undefined;
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #stride: number;
  #dispatches: Dispatch[] = [];
  #params: GPUBuffer;
  #words = new DataView(new ArrayBuffer(0));
  #before: RecordCommands[] = [];
  /** For read-back. */
  #after: RecordCommands[] = [];

  constructor(gpu: Gpu, profiler?: Profiler) {
    this.#gpu = gpu;
    this.#profiler = profiler;
    this.#stride = align(paramBytesMax, gpu.device.limits.minUniformBufferOffsetAlignment);
    this.#params = this.#allocateParams(64);
  }

  add(dispatch: Dispatch): void {
    this.#dispatches.push(dispatch);
  }

  /** Runs `record` while the command buffer of the next submission is open, before its compute pass, which sees its effects. */
  addBeforePass(record: RecordCommands): void {
    this.#before.push(record);
  }

  /** Runs `record` while the command buffer of the next submission is open, after its compute pass. */
  addAfterPass(record: RecordCommands): void {
    this.#after.push(record);
  }

  /** Hands out what was added and forgets it: for compiling pipelines ahead, and for tests. */
  take(): Dispatch[] {
    const dispatches = this.#dispatches;
    this.#dispatches = [];
    this.#before = [];
    this.#after = [];
    return dispatches;
  }

  /** Encodes and submits everything added since the last call. Throws `DeviceLostError` on a failed device. */
  submit(): void {
    this.#gpu.assertAlive();
    const before = this.#before;
    const after = this.#after;
    const dispatches = this.take();
    this.#writeParams(dispatches);
    const encoder = this.#gpu.device.createCommandEncoder();
    for (const record of before) record(encoder);
    if (this.#profiler) this.#encodeProfiled(encoder, dispatches, this.#profiler);
    else this.#encode(encoder, dispatches);
    for (const record of after) record(encoder);
    this.#gpu.device.queue.submit([encoder.finish()]);
    this.#profiler?.afterSubmit();
  }

  #encode(encoder: GPUCommandEncoder, dispatches: readonly Dispatch[]): void {
    const pass = encoder.beginComputePass();
    dispatches.forEach((dispatch, index) => this.#encodeOne(pass, dispatch, index));
    pass.end();
  }

  /** A pass a dispatch, each between two timestamps. */
  #encodeProfiled(encoder: GPUCommandEncoder, dispatches: readonly Dispatch[], profiler: Profiler): void {
    dispatches.forEach((dispatch, index) => {
      const pass = encoder.beginComputePass(profiler.timestampsFor(dispatch, encoder));
      this.#encodeOne(pass, dispatch, index);
      pass.end();
    });
    profiler.resolve(encoder);
  }

  #encodeOne(pass: GPUComputePassEncoder, dispatch: Dispatch, index: number): void {
    const [x, y, z] = dispatch.workgroups;
    if (x === 0 || y === 0 || z === 0) return;
    const pipeline = this.#gpu.pipelines.get(dispatch);
    pass.setPipeline(pipeline.gpu);
    pass.setBindGroup(0, this.#bindGroup(pipeline, dispatch), [index * this.#stride]);
    pass.dispatchWorkgroups(x, y, z);
  }

  #bindGroup(pipeline: Pipeline, dispatch: Dispatch): GPUBindGroup {
    let key = dispatch.spec.name;
    for (const name in dispatch.spec.tensors) {
      const { buffer, offset, size } = dispatch.tensors[name];
      key += `|${buffer.id}.${offset}.${size}`;
    }
    const found = this.#bindGroups.get(key);
    if (found) return found;
    const entries = Object.keys(dispatch.spec.tensors).map((name, index) => {
      const { buffer, offset, size } = dispatch.tensors[name];
      return { binding: index + 1, resource: { buffer: buffer.gpu, offset, size } };
    });
    const group = this.#gpu.device.createBindGroup({
      label: dispatch.spec.name,
      layout: pipeline.layout,
      entries: [{ binding: 0, resource: { buffer: this.#params, size: paramBytesMax } }, ...entries],
    });
    this.#bindGroups.set(key, group);
    return group;
  }

  #writeParams(dispatches: readonly Dispatch[]): void {
    const bytes = dispatches.length * this.#stride;
    if (bytes > this.#params.size) this.#growParams(dispatches.length);
    dispatches.forEach((dispatch, index) => {
      let at = index * this.#stride;
      for (const name in dispatch.spec.params) {
        const value = dispatch.params[name];
        if (value === undefined)
          throw new Error(`Cannot run ${dispatch.spec.name}: param ${name} is missing`);
        if (dispatch.spec.params[name] === "f32") this.#words.setFloat32(at, value, true);
        else this.#words.setUint32(at, value, true);
        at += 4;
      }
    });
    if (bytes > 0) this.#gpu.device.queue.writeBuffer(this.#params, 0, this.#words.buffer, 0, bytes);
  }

  #growParams(count: number): void {
    // Submitted work keeps the old buffer alive until it is done; only the cached bind groups must go.
    this.#bindGroups.clear();
    this.#params = this.#allocateParams(count * 2);
  }

  #allocateParams(count: number): GPUBuffer {
    const size = count * this.#stride;
    this.#words = new DataView(new ArrayBuffer(size));
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    return this.#gpu.device.createBuffer({ label: "params", size, usage });
  }
}
