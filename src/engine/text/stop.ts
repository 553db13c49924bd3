/**
 * Finds stop strings in text that arrives in pieces, by an Aho-Corasick automaton: linear in the text, whatever the
 * stops (Aho and Corasick, 1975).
 *
 * Owns the rule of which stop wins: the one that is complete first; of several complete at the same character, the one
 * that starts first. So the outcome does not depend on how the text was cut into pieces.
 */
import { InvalidRequestError } from "../errors.ts";

interface State {
  /** Characters of stop text that lead here: how much must be held back. */
  depth: number;
  next: Map<number, State>;
  /** Where to go on when no character fits: the longest proper suffix that begins a stop. */
  fail: State | undefined;
  /** The longest stop that ends here, "" if none does. */
  stop: string;
}

export interface StopResult {
  /** Text that no stop can reach any more. */
  text: string;
  /** The stop that is complete, after which there is no text; null before. */
  stop: string | null;
}

export class StopMatcher {
  readonly #root: State;
  #state: State;
  #held = "";
  #stop: string | null = null;

  /** Throws `InvalidRequestError` for an empty stop string. */
  constructor(stops: readonly string[]) {
    if (stops.includes("")) {
      throw new InvalidRequestError(
        "Cannot look for a stop string: expected at least one character, got an empty string",
        "stop",
      );
    }
    // A lone surrogate would match half a character.
    this.#root = buildAutomaton(stops.map((stop) => stop.toWellFormed()));
    this.#state = this.#root;
  }

  /** Takes the next piece of text. After a stop nothing more is given out. */
  push(piece: string): StopResult {
    if (this.#stop !== null) return { text: "", stop: this.#stop };
    const text = this.#held + piece;
    for (let at = this.#held.length; at < text.length; at++) {
      this.#state = step(this.#state, text.charCodeAt(at));
      const { stop } = this.#state;
      if (stop !== "") return this.#end(text.slice(0, at + 1 - stop.length), stop);
    }
    const end = text.length - this.#state.depth;
    this.#held = text.slice(end);
    return { text: text.slice(0, end), stop: null };
  }

  /** What was held back, at the end of the text. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    this.#state = this.#root;
    return rest;
  }

  #end(text: string, stop: string): StopResult {
    this.#stop = stop;
    this.#held = "";
    return { text, stop };
  }
}

function step(from: State, unit: number): State {
  let state: State = from;
  for (;;) {
    const next = state.next.get(unit);
    if (next !== undefined) return next;
    if (state.fail === undefined) return state;
    state = state.fail;
  }
}

function buildAutomaton(stops: readonly string[]): State {
  const root: State = { depth: 0, next: new Map(), fail: undefined, stop: "" };
  for (const stop of stops) addPath(root, stop);
  // Breadth first: a state's fail is shallower, so it is complete when it is needed. `queue` grows as it is walked.
  const queue = [root];
  for (const state of queue) {
    for (const [unit, child] of state.next) {
      child.fail = state.fail === undefined ? root : step(state.fail, unit);
      if (child.stop === "") child.stop = child.fail.stop;
      queue.push(child);
    }
  }
  return root;
}

function addPath(root: State, stop: string): void {
  let state = root;
  for (let i = 0; i < stop.length; i++) {
    const unit = stop.charCodeAt(i);
    let child = state.next.get(unit);
    if (child === undefined)
      state.next.set(unit, (child = { depth: i + 1, next: new Map(), fail: undefined, stop: "" }));
    state = child;
  }
  state.stop = stop;
}
