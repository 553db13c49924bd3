/**
 * Collects the dispatches of a step and submits them as one compute pass.
 *
 * Bind groups are cached by the memory they bind, so a repeated step creates nothing; where it repeats the one before,
 * a dispatch is found beside the one it followed then, without making a key. Work that comes again and again unchanged,
 * as a decode step of the same batch size does, can be fixed as a `Program`: then nothing of it is looked up or written
 * any more, only encoded. A dispatch sees the writes of those before it (WebGPU orders dispatches of a pass
 * by the buffers they share). Copies between buffers cannot be part of a pass: they come before all of its dispatches,
 * or after.
 */
import type { Gpu } from "./gpu.ts";
import type { Dispatch } from "./kernel.ts";
import { ParamSlots } from "./params.ts";
import type { Profiler } from "./profile.ts";
import { hasSameFields } from "./same-fields.ts";

type RecordCommands = (encoder: GPUCommandEncoder) => void;

/** A dispatch with all it needs from the device. */
interface Command {
  dispatch: Dispatch;
  pipeline: GPUComputePipeline;
  group: GPUBindGroup;
}

/** Dispatches with params and bind groups of their own, to be run any number of times. */
export class Program {
  readonly commands: readonly Command[];

  constructor(commands: readonly Command[]) {
    this.commands = commands;
  }
}

/** A place for params and the bind group that names it. */
interface Slot {
  readonly index: number;
  readonly group: GPUBindGroup;
  /** Which used it last, and that one's pipeline. */
  dispatch: Dispatch;
  pipeline: GPUComputePipeline;
  /** The submission, and the slot that was used next in it. */
  submission: number;
  next: Slot | null;
}

export class Recorder {
  readonly #gpu: Gpu;
  readonly #profiler: Profiler | undefined;
  /** By memory bound: the slots of the first, second, ... such dispatch of a step. */
  readonly #slots = new Map<string, Slot[]>();
  #slotCount = 0;
  #lastSlot: Slot | null = null;
  #submission = 0;
  #params: ParamSlots;
  #items: (Dispatch | Program)[] = [];
  #before: RecordCommands[] = [];
  /** For read-back. */
  #after: RecordCommands[] = [];

  constructor(gpu: Gpu, profiler?: Profiler) {
    this.#gpu = gpu;
    this.#profiler = profiler;
    this.#params = new ParamSlots(gpu.device, 64);
  }

  add(dispatch: Dispatch | Program): void {
    this.#items.push(dispatch);
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
    const items = this.#items;
    this.#items = [];
    this.#before = [];
    this.#after = [];
    return items.flatMap((item) =>
      item instanceof Program ? item.commands.map(({ dispatch }) => dispatch) : [item],
    );
  }

  /** Fixes these dispatches, which must not be empty, for repeated use; the program lives as long as it is referenced. */
  program(dispatches: readonly Dispatch[]): Program {
    const real = dispatches.filter(isWork);
    const params = new ParamSlots(this.#gpu.device, Math.max(1, real.length));
    const commands = real.map((dispatch, index) => {
      params.set(index, dispatch);
      return this.#command(dispatch, this.#createGroup(dispatch, params.binding(index)));
    });
    params.upload();
    return new Program(commands);
  }

  /**
   * Submits what was added so far, so that the device begins while the rest of a long step is being recorded. What was to
   * come before the pass goes along; what is to come after it waits for `submit`.
   */
  flush(): void {
    const after = this.#after;
    this.#after = [];
    this.submit();
    this.#after = after;
  }

  /**
   * Encodes and submits everything added since the last call; `pass` may ask for timestamps around it all. Throws
   * `DeviceLostError` on a failed device.
   */
  submit(pass?: GPUComputePassDescriptor): void {
    this.#gpu.assertAlive();
    const [before, after, items] = [this.#before, this.#after, this.#items];
    this.take();
    const commands = this.#resolve(items);
    const encoder = this.#gpu.device.createCommandEncoder();
    for (const record of before) record(encoder);
    if (this.#profiler) encodeProfiled(encoder, commands, this.#profiler);
    else encode(encoder, commands, pass);
    for (const record of after) record(encoder);
    this.#gpu.device.queue.submit([encoder.finish()]);
    this.#profiler?.afterSubmit();
  }

  #resolve(items: readonly (Dispatch | Program)[]): Command[] {
    this.#reserve(items);
    this.#submission++;
    const commands: Command[] = [];
    for (const item of items) {
      if (item instanceof Program) commands.push(...item.commands);
      else if (isWork(item)) commands.push(this.#resolveOne(item));
    }
    this.#params.upload();
    return commands;
  }

  #resolveOne(dispatch: Dispatch): Command {
    const expected = this.#lastSlot?.next;
    const isExpected = expected && this.#isFree(expected) && bindsAlike(expected.dispatch, dispatch);
    const slot = isExpected ? expected : this.#findSlot(dispatch);
    if (this.#lastSlot) this.#lastSlot.next = slot;
    this.#lastSlot = slot;
    if (slot.dispatch !== dispatch) {
      if (!isSameVariant(slot.dispatch, dispatch)) slot.pipeline = this.#gpu.pipelines.get(dispatch).gpu;
      this.#params.set(slot.index, dispatch);
      slot.dispatch = dispatch;
    }
    slot.submission = this.#submission;
    return { dispatch, pipeline: slot.pipeline, group: slot.group };
  }

  /** A slot that this submission does not use yet. */
  #isFree({ submission }: Slot): boolean {
    return submission !== this.#submission;
  }

  #findSlot(dispatch: Dispatch): Slot {
    const key = memoryKey(dispatch);
    let slots = this.#slots.get(key);
    if (!slots) this.#slots.set(key, (slots = []));
    const free = slots.find((slot) => this.#isFree(slot));
    if (free) return free;
    const index = this.#slotCount++;
    const group = this.#createGroup(dispatch, this.#params.binding(index));
    const pipeline = this.#gpu.pipelines.get(dispatch).gpu;
    this.#params.set(index, dispatch);
    const slot = { index, group, dispatch, pipeline, submission: 0, next: null };
    slots.push(slot);
    return slot;
  }

  #command(dispatch: Dispatch, group: GPUBindGroup): Command {
    return { dispatch, pipeline: this.#gpu.pipelines.get(dispatch).gpu, group };
  }

  #createGroup(dispatch: Dispatch, params: GPUBufferBinding): GPUBindGroup {
    const tensors = Object.keys(dispatch.spec.tensors).map((name, index) => {
      const { buffer, offset, size } = dispatch.tensors[name];
      return { binding: index + 1, resource: { buffer: buffer.gpu, offset, size } };
    });
    return this.#gpu.device.createBindGroup({
      label: dispatch.spec.name,
      layout: this.#gpu.pipelines.get(dispatch).layout,
      entries: [{ binding: 0, resource: params }, ...tensors],
    });
  }

  /** Room for a slot more for each item; a new buffer makes all bind groups anew, the old one lives until its work is done. */
  #reserve(items: readonly (Dispatch | Program)[]): void {
    const needed = this.#slotCount + items.length;
    if (needed <= this.#params.capacity) return;
    this.#slots.clear();
    this.#slotCount = 0;
    this.#lastSlot = null;
    this.#params = new ParamSlots(this.#gpu.device, 2 * Math.max(items.length, this.#params.capacity));
  }
}

function encode(
  encoder: GPUCommandEncoder,
  commands: readonly Command[],
  descriptor?: GPUComputePassDescriptor,
): void {
  const pass = encoder.beginComputePass(descriptor);
  let current: GPUComputePipeline | null = null;
  for (const { dispatch, pipeline, group } of commands) {
    if (pipeline !== current) pass.setPipeline((current = pipeline));
    pass.setBindGroup(0, group);
    const [x, y, z] = dispatch.workgroups;
    pass.dispatchWorkgroups(x, y, z);
  }
  pass.end();
}

/** A pass a dispatch, each between two timestamps. */
function encodeProfiled(encoder: GPUCommandEncoder, commands: readonly Command[], profiler: Profiler): void {
  for (const command of commands) {
    const pass = encoder.beginComputePass(profiler.timestampsFor(command.dispatch, encoder));
    pass.setPipeline(command.pipeline);
    pass.setBindGroup(0, command.group);
    pass.dispatchWorkgroups(...command.dispatch.workgroups);
    pass.end();
  }
  profiler.resolve(encoder);
}

function isWork({ workgroups }: Dispatch): boolean {
  return workgroups.every((count) => count > 0);
}

/** Whether two dispatches bind the same memory to the same kernel. */
function bindsAlike(a: Dispatch, b: Dispatch): boolean {
  if (a === b) return true;
  if (a.spec !== b.spec) return false;
  for (const name in a.spec.tensors) {
    const [one, other] = [a.tensors[name], b.tensors[name]];
    if (one.buffer.id !== other.buffer.id || one.offset !== other.offset || one.size !== other.size)
      return false;
  }
  return true;
}

/** Whether two dispatches of a kernel run the same pipeline. */
function isSameVariant(a: Dispatch, b: Dispatch): boolean {
  return a.file === b.file && hasSameFields(a.constants, b.constants) && hasSameFields(a.replace, b.replace);
}

function memoryKey({ spec, tensors }: Dispatch): string {
  let key = spec.name;
  for (const name in spec.tensors) {
    const { buffer, offset, size } = tensors[name];
    key += `|${buffer.id}.${offset}.${size}`;
  }
  return key;
}
