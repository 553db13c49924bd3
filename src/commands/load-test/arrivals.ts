/** When requests arrive: a plan made beforehand, so that a slow server cannot slow the load down (open loop). */
import type { Random } from "./random.ts";

export interface ArrivalOptions {
  /** Requests a second on average; `Infinity` sends all at once. */
  requestRate: number;
  /** 1 is a Poisson process; below, arrivals come in bursts; above, they are more even; `Infinity` is a fixed interval. */
  burstiness: number;
}

/**
 * Milliseconds from the start at which each of `count` requests arrives, as vLLM plans them: intervals are gamma
 * distributed with shape `burstiness` and mean 1 / rate, then scaled so that the last one arrives at count / rate.
 */
export function planArrivals(
  count: number,
  { requestRate, burstiness }: ArrivalOptions,
  random: Random,
): number[] {
  if (requestRate === Infinity) return new Array<number>(count).fill(0);
  const times: number[] = [];
  let last = 0;
  for (let index = 0; index < count; index++) {
    last += burstiness === Infinity ? 1 : random.gamma(burstiness);
    times.push(last);
  }
  const totalMs = (1000 * count) / requestRate;
  // Intervals of an extreme burstiness may all be too small for a float.
  return last === 0 ? times : times.map((time) => (time * totalMs) / last);
}
