/** Runs step plans on a toy model over paged memory, and throws as soon as a plan does what a device must not do. */
import { type Rectangle, rectangleRows, rowOfSampled, type StepPlan } from "../../src/engine/step-plan.ts";
import { attend, embedToken, isVisible, keyOf, type PassKind, sampleId, type ToyModel } from "./toy-model.ts";

export interface ToyDeviceOptions {
  model: ToyModel;
  /** The group of each pass. */
  layerGroups: readonly number[];
  /** By group. */
  blockCounts: readonly number[];
  blockSize: number;
  saltOf: (requestId: string) => string;
}

/** A rectangle with the states of its tokens as they stand. */
interface Running {
  rectangle: Rectangle;
  salt: string;
  states: number[];
}

/** A layered prefill whose activations lie on the device. */
interface Suspended {
  running: Running;
  nextPass: number;
}

export class ToyDevice {
  readonly #options: ToyDeviceOptions;
  /** [pass][block * blockSize + offset]. Blocks that change hands keep what was in them. */
  readonly #memory: readonly Int32Array[];
  /** [pass][...]: the last plan that wrote there. */
  readonly #writers: readonly Int32Array[];
  #suspended: Suspended | null = null;
  /** Of the last main batch: what `sampledRow` refers to. */
  #sampled: number[] = [];
  #lastPlan = 0;

  constructor(options: ToyDeviceOptions) {
    const slots = ({ layerGroups, blockCounts, blockSize }: ToyDeviceOptions) =>
      layerGroups.map((group) => new Int32Array(blockCounts[group] * blockSize));
    this.#options = options;
    this.#memory = slots(options);
    this.#writers = slots(options);
  }

  /** Returns the sampled ids: rows of the main batch, then of the layered one. */
  run(plan: StepPlan): number[] {
    if (plan.id !== this.#lastPlan + 1) throw new Error(`plan ${plan.id} came after plan ${this.#lastPlan}`);
    this.#lastPlan = plan.id;
    for (const copy of plan.copies) this.#copy(copy);
    // The two batches do not depend on each other, so it must not matter which goes first.
    const isMainFirst = plan.id % 2 === 0;
    let layered = isMainFirst ? [] : this.#runLayered(plan);
    const main = this.#runMain(plan.main);
    if (isMainFirst) layered = this.#runLayered(plan);
    this.#sampled = main;
    return [...main, ...layered];
  }

  #copy({ group, from, to }: StepPlan["copies"][number]): void {
    const { layerGroups, blockSize } = this.#options;
    layerGroups.forEach((own, pass) => {
      if (own !== group) return;
      this.#memory[pass].copyWithin(to * blockSize, from * blockSize, (from + 1) * blockSize);
    });
  }

  #runMain(rectangles: readonly Rectangle[]): number[] {
    const batch = rectangles.map((rectangle) => this.#embed(rectangle));
    this.#options.model.passes.forEach((_, pass) => this.#runPass(batch, pass));
    return batch.flatMap((running) => this.#sample(running));
  }

  #runLayered({ layered }: StepPlan): number[] {
    if (!layered) return [];
    const { rectangle, from, to } = layered;
    const running = from === 0 ? this.#embed(rectangle) : this.#continued(rectangle, from);
    for (let pass = from; pass < to; pass++) this.#runPass([running], pass);
    this.#suspended = { running, nextPass: to };
    if (to === this.#options.model.passes.length) return this.#sample(running);
    if (rectangle.sampling.length > 0) throw new Error("rows are sampled before the last pass");
    return [];
  }

  #continued(rectangle: Rectangle, from: number): Running {
    const { running, nextPass } = this.#suspended ?? {};
    if (!running || nextPass !== from) throw new Error(`pass ${from} of a layered prefill is out of order`);
    const tokens = ({ requestId, start, tokenIds }: Rectangle) =>
      JSON.stringify([requestId, start, tokenIds]);
    if (tokens(running.rectangle) !== tokens(rectangle))
      throw new Error("a layered prefill changed its tokens between passes");
    return { ...running, rectangle };
  }

  #embed(rectangle: Rectangle): Running {
    const salt = this.#options.saltOf(rectangle.requestId);
    const states = rectangle.tokenIds.map((id, index) => {
      const row = rowOfSampled(id);
      const known = row === null ? id : this.#sampled.at(row);
      if (known === undefined) throw new Error(`row ${row} of the last step was not sampled`);
      return embedToken(known, rectangle.start + index, salt);
    });
    return { rectangle, salt, states };
  }

  /** All write before any reads, as a batch on a device does. */
  #runPass(batch: readonly Running[], pass: number): void {
    for (const running of batch) this.#write(running, pass);
    const kind = this.#options.model.passes[pass];
    for (const running of batch) {
      const { rectangle } = running;
      running.states = running.states.map((state, index) =>
        attend(state, this.#seen(rectangle, { query: rectangle.start + index, pass, kind })),
      );
    }
  }

  #write({ rectangle, states }: Running, pass: number): void {
    states.forEach((state, index) => {
      const position = rectangle.start + index;
      if (position < rectangle.writeStart) return;
      const slot = this.#slot(rectangle, position, pass);
      if (this.#writers[pass][slot] === this.#lastPlan)
        throw new Error(`slot ${slot} of pass ${pass} is written twice in a step`);
      this.#writers[pass][slot] = this.#lastPlan;
      this.#memory[pass][slot] = keyOf(state, pass);
    });
  }

  #seen(rectangle: Rectangle, at: { query: number; pass: number; kind: PassKind }): number {
    const { start, tokenIds, prefixLength, requestId } = rectangle;
    let sum = 0;
    for (let key = 0; key < start + tokenIds.length; key++) {
      if (!isVisible(at.query, key, prefixLength, at.kind)) continue;
      const value = this.#memory[at.pass][this.#slot(rectangle, key, at.pass)];
      if (value === 0) throw new Error(`request ${requestId} reads position ${key}, which nobody wrote`);
      sum = (sum + value) | 0;
    }
    return sum;
  }

  #slot({ tables, requestId }: Rectangle, position: number, pass: number): number {
    const { layerGroups, blockSize } = this.#options;
    const block = tables[layerGroups[pass]].at(Math.floor(position / blockSize));
    if (!block) throw new Error(`request ${requestId} has no block for position ${position}`);
    return block * blockSize + (position % blockSize);
  }

  #sample({ rectangle, states }: Running): number[] {
    if (rectangleRows(rectangle) !== rectangle.sampling.length) throw new Error("a row is not sampled");
    const last = states[states.length - 1];
    return rectangle.sampling.map(({ seed, step }) => sampleId(this.#options.model, last, seed, step));
  }
}
