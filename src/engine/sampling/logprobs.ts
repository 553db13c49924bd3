/**
 * Log-probabilities of a token and of the most likely ones, from a row of logits.
 *
 * The distribution is the softmax of the logits as the model gave them, before temperature, penalties, bans and
 * filters: vLLM's default ("raw_logprobs"). So a drawn token need not be among the likely ones, and the logits must be
 * read before `adjust-logits` and `mask-logits` change them.
 */

export interface TokenLogprob {
  id: number;
  /** Natural logarithm of the probability; -Infinity where the logit is -Infinity or NaN. */
  logprob: number;
  /** 1 for the most likely token. */
  rank: number;
}

export interface Logprobs {
  /** Its rank is how many tokens are at least as likely, itself included: vLLM's count, so ties share the worst. */
  chosen: TokenLogprob;
  /** The most likely tokens in order, the lowest id first on a tie; ranks count from 1. */
  top: TokenLogprob[];
}

/** The `topCount` most likely tokens and the chosen one. Passes over the row in float64, without sorting it. */
export function logprobsOf(logits: Float32Array, chosenId: number, topCount: number): Logprobs {
  if (!(chosenId >= 0 && chosenId < logits.length)) {
    throw new RangeError(`Cannot find token ${chosenId}: expected an id below ${logits.length}`);
  }
  const ids = largest(logits, Math.min(Math.max(topCount, 1), logits.length));
  const most = valueOf(logits, ids[0]);
  const logSum = Math.log(sumOfExp(logits, most));
  const entry = (id: number, rank: number): TokenLogprob => {
    const value = valueOf(logits, id);
    return { id, logprob: value === -Infinity ? value : distance(value, most) - logSum, rank };
  };
  const top = Array.from(ids.subarray(0, topCount), (id, index) => entry(id, index + 1));
  return { chosen: entry(chosenId, rankOf(logits, valueOf(logits, chosenId))), top };
}

function valueOf(logits: Float32Array, id: number): number {
  return Number.isNaN(logits[id]) ? -Infinity : logits[id];
}

/** Equal infinities are no distance apart. */
function distance(value: number, most: number): number {
  return value === most ? 0 : value - most;
}

/** Terms this far below the largest are left out: all of a vocabulary of 2^18 change the sum by 1e-12. */
const negligible = -40;

function sumOfExp(logits: Float32Array, most: number): number {
  let sum = 0;
  for (let id = 0; id < logits.length; id++) {
    const below = distance(logits[id], most);
    if (below > negligible) sum += Math.exp(below);
  }
  return sum;
}

function rankOf(logits: Float32Array, value: number): number {
  if (value === -Infinity) return logits.length;
  let rank = 0;
  for (let id = 0; id < logits.length; id++) if (logits[id] >= value) rank++;
  return rank;
}

/** The ids of the `count` largest logits, in order: a heap of the best so far with the worst of them on top. */
function largest(logits: Float32Array, count: number): Uint32Array {
  const heap = Uint32Array.from({ length: count }, (_, id) => id);
  for (let at = (count >> 1) - 1; at >= 0; at--) siftDown(logits, heap, at);
  let least = valueOf(logits, heap[0]);
  for (let id = count; id < logits.length; id++) {
    // An equal one has a higher id than all in the heap, so it stays out; and so does NaN.
    if (logits[id] > least) {
      heap[0] = id;
      siftDown(logits, heap, 0);
      least = valueOf(logits, heap[0]);
    }
  }
  return heap.sort((a, b) => (comesBefore(logits, a, b) ? -1 : 1));
}

function siftDown(logits: Float32Array, heap: Uint32Array, start: number): void {
  let at = start;
  for (let child = 2 * at + 1; child < heap.length; child = 2 * at + 1) {
    if (child + 1 < heap.length && comesBefore(logits, heap[child], heap[child + 1])) child++;
    if (!comesBefore(logits, heap[at], heap[child])) return;
    const id = heap[at];
    heap[at] = heap[child];
    heap[child] = id;
    at = child;
  }
}

function comesBefore(logits: Float32Array, a: number, b: number): boolean {
  const x = valueOf(logits, a);
  const y = valueOf(logits, b);
  return x > y || (x === y && a < b);
}
