/** A clock that goes on only when nothing else can happen, from one sleeper's end to the next. */
export class VirtualTime {
  #nowMs = 0;
  readonly #sleepers: { untilMs: number; wake: () => void }[] = [];

  readonly now = (): number => this.#nowMs;

  readonly sleep = (delayMs: number, signal?: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      this.#sleepers.push({ untilMs: this.#nowMs + delayMs, wake: resolve });
      signal?.addEventListener("abort", () => resolve());
    });

  /** Lets time pass until `work` has settled. */
  async runUntil(work: Promise<unknown>): Promise<void> {
    let isRunning = true;
    const settled = () => void (isRunning = false);
    work.then(settled, settled);
    for (;;) {
      // A turn of the event loop lets all that can go on now do so.
      await new Promise((resolve) => setImmediate(resolve));
      if (!isRunning) return;
      this.#sleepers.sort((a, b) => a.untilMs - b.untilMs);
      const next = this.#sleepers.shift();
      if (!next) throw new Error("Cannot let time pass: expected someone to wake, got nobody");
      this.#nowMs = next.untilMs;
      next.wake();
    }
  }
}
