/**
 * A decoder in which hashes stand for numbers: the state of a token is a hash of all it has seen, in every layer pass.
 *
 * So an id comes out as it should if, and only if, every key that the prefix rule makes visible was there, was written
 * by the right tokens, with the right P, in the right order of passes, and nothing else was read. It is the smallest
 * thing that goes wrong where a real model would.
 */
import type { SchedulerRequest } from "../../src/engine/scheduler/request.ts";

/** What one layer pass sees. */
export interface PassKind {
  /** Prefix tokens see later prefix tokens. */
  nonCausal: boolean;
  /** Tokens that a query sees, itself included; null is all of them. */
  window: number | null;
}

export interface ToyModel {
  passes: readonly PassKind[];
  vocabSize: number;
}

export function mix(a: number, b: number): number {
  let x = Math.imul(a ^ 0x85ebca6b, 0x9e3779b1) ^ Math.imul(b + 0x165667b1, 0xc2b2ae3d);
  x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d);
  return (x ^ (x >>> 13)) | 0;
}

/** The state that the first pass reads. The salt is part of it: nothing of one tenant may depend on another's KV. */
export function embedToken(id: number, position: number, salt: string): number {
  const tenant = [...salt].reduce((hash, letter) => mix(hash, letter.charCodeAt(0)), 7);
  return mix(mix(id, position), tenant);
}

/** What a pass keeps of a token; never 0, which stands for memory that was never written. */
export function keyOf(state: number, pass: number): number {
  return mix(state, pass + 101) || 1;
}

/** `seen` is the sum of the visible keys. */
export function attend(state: number, seen: number): number {
  return mix(state, seen);
}

export function isVisible(query: number, key: number, prefixLength: number, pass: PassKind): boolean {
  if (pass.nonCausal && query < prefixLength && key < prefixLength) return true;
  return key <= query && (pass.window === null || query - key < pass.window);
}

/** An id depends on the state, the seed and the length of the answer so far. */
export function sampleId(model: ToyModel, state: number, seed: bigint, step: number): number {
  return (mix(mix(state, Number(seed)), step) >>> 0) % model.vocabSize;
}

/** A sequence that runs alone, without blocks, batches or cuts. */
export class LoneRun {
  readonly #model: ToyModel;
  readonly #prefixLength: number;
  readonly #salt: string;
  /** [pass][position] */
  readonly #keys: number[][];

  constructor(model: ToyModel, prefixLength: number, salt: string) {
    this.#model = model;
    this.#prefixLength = prefixLength;
    this.#salt = salt;
    this.#keys = model.passes.map(() => []);
  }

  /** Runs tokens that follow those run before; returns the last one's state. A prefix must be run in one go. */
  run(ids: readonly number[]): number {
    const start = this.#keys[0].length;
    let states = ids.map((id, index) => embedToken(id, start + index, this.#salt));
    this.#model.passes.forEach((pass, index) => {
      this.#keys[index].push(...states.map((state) => keyOf(state, index)));
      states = states.map((state, offset) => attend(state, this.#seen(start + offset, pass, index)));
    });
    return states[states.length - 1];
  }

  #seen(query: number, pass: PassKind, index: number): number {
    let sum = 0;
    this.#keys[index].forEach((key, position) => {
      if (isVisible(query, position, this.#prefixLength, pass)) sum = (sum + key) | 0;
    });
    return sum;
  }
}

export interface Answer {
  ids: number[];
  reason: "stop" | "length";
}

/** The answer that a request gets when it is all there is. `tokensMax`: of this answer, for want of context or KV. */
export function loneAnswer(
  model: ToyModel,
  request: SchedulerRequest,
  choice: number,
  tokensMax: number,
): Answer {
  const isPrefixLm = model.passes.some(({ nonCausal }) => nonCausal);
  const run = new LoneRun(model, isPrefixLm ? request.prefixLength : 0, request.cacheSalt);
  const { seed } = request.answers[choice];
  const ids: number[] = [];
  let next = request.promptIds;
  for (;;) {
    const id = sampleId(model, run.run(next), seed, ids.length);
    ids.push(id);
    next = [id];
    if (ids.length > request.minTokens && request.stopTokenIds.includes(id)) return { ids, reason: "stop" };
    if (ids.length === Math.min(request.maxTokens, tokensMax)) return { ids, reason: "length" };
  }
}
