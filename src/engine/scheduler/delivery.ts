/** From sampled ids to events: what is known of an answer grows, and ends. */
import type { SchedulerEvent } from "./request.ts";
import type { Sequence } from "./sequence.ts";

export interface Delivery {
  events: SchedulerEvent[];
  /** Sequences that have ended, and hold blocks still. */
  ended: Sequence[];
}

/** Ids of the plan's sampled rows in order. The ids of a sequence that has ended meanwhile are dropped. */
export function deliver(plan: number, sampled: readonly Sequence[], ids: ArrayLike<number>): Delivery {
  if (ids.length !== sampled.length)
    throw new Error(`Cannot deliver step ${plan}: expected ${sampled.length} ids, got ${ids.length}`);
  const delivery: Delivery = { events: [], ended: [] };
  sampled.forEach((sequence, index) => {
    if (sequence.state === "finished") return;
    if (sequence.pending.shift()?.plan !== plan)
      throw new Error(`Cannot deliver step ${plan}: request ${sequence.request.id} expects another first`);
    accept(sequence, ids[index], delivery);
  });
  return delivery;
}

function accept(sequence: Sequence, id: number, { events, ended }: Delivery): void {
  const { choice } = sequence;
  const requestId = sequence.request.id;
  sequence.knownIds.push(id);
  sequence.isHeld = sequence.request.isGuided ?? false;
  events.push({ type: "tokens", requestId, choice, ids: [id] });
  const reason = endOf(sequence, id);
  if (reason === null) return;
  events.push({ type: "finish", requestId, choice, reason });
  ended.push(sequence);
}

function endOf({ request, shared, outputLength }: Sequence, id: number): "stop" | "length" | null {
  if (outputLength > request.minTokens && request.stopTokenIds.includes(id)) return "stop";
  return outputLength >= shared.outputTokensMax ? "length" : null;
}
