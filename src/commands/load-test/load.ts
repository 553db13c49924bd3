/** The open loop: each request goes out at its planned time, however the ones before it fare. */

export interface LoadOptions<Result> {
  /** Milliseconds from the start, ascending. */
  arrivalsMs: readonly number[];
  /** Requests in flight at once; more wait in the client. `Infinity` is no limit. */
  concurrencyMax: number;
  send: (index: number) => Promise<Result>;
  now: () => number;
  /** Resolves after the delay, or as soon as the signal is aborted. */
  sleep: (delayMs: number, signal: AbortSignal) => Promise<void>;
  /** Aborted: no more requests go out. Those in flight are for `send` to end. */
  signal: AbortSignal;
  onDone?: (result: Result) => void;
}

export interface LoadRun<Result> {
  /** By arrival. */
  requests: { arrivalMs: number; result: Result }[];
  /** From the start to the end of the last request. */
  durationMs: number;
}

export async function runLoad<Result>(options: LoadOptions<Result>): Promise<LoadRun<Result>> {
  const { arrivalsMs, now, sleep, signal } = options;
  const startMs = now();
  const slots = new Slots(options.concurrencyMax, signal);
  const requests: Promise<LoadRun<Result>["requests"][number] | null>[] = [];
  for (const [index, plannedMs] of arrivalsMs.entries()) {
    const delayMs = startMs + plannedMs - now();
    if (plannedMs > 0 && delayMs > 0) await sleep(delayMs, signal);
    if (signal.aborted) break;
    requests.push(runOne(index, slots, options));
  }
  const finished = await Promise.all(requests);
  return { requests: finished.filter((request) => request !== null), durationMs: now() - startMs };
}

/** Null if the load was stopped before it was sent. */
async function runOne<Result>(
  index: number,
  slots: Slots,
  { now, send, onDone, signal }: LoadOptions<Result>,
): Promise<LoadRun<Result>["requests"][number] | null> {
  const arrivalMs = now();
  await slots.take();
  if (signal.aborted) return null;
  try {
    const result = await send(index);
    onDone?.(result);
    return { arrivalMs, result };
  } finally {
    slots.giveBack();
  }
}

/** A counted resource, handed on in the order of asking; everyone gets one once `signal` is aborted. */
class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number, signal: AbortSignal) {
    this.#free = count;
    signal.addEventListener("abort", () => {
      for (const wake of this.#waiting.splice(0)) wake();
    });
  }

  async take(): Promise<void> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  giveBack(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }
}
