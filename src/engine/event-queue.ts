/** A queue from callbacks to one asynchronous reader, which says when the reader falls behind. */

export interface EventQueueOptions {
  /** Items waiting at which the writer should stop; it may go on when half of them are read. */
  itemsMax: number;
  onFull: () => void;
  onDrained: () => void;
}

export class EventQueue<T> implements AsyncIterable<T> {
  readonly #options: EventQueueOptions | undefined;
  readonly #items: T[] = [];
  #isFull = false;
  #takenCount = 0;
  #error: { reason: unknown } | null = null;
  #wake: (() => void) | null = null;

  constructor(options?: EventQueueOptions) {
    this.#options = options;
  }

  /** Items that were read so far. */
  get takenCount(): number {
    return this.#takenCount;
  }

  push(item: T): void {
    this.#items.push(item);
    if (this.#options && !this.#isFull && this.#items.length >= this.#options.itemsMax) {
      this.#isFull = true;
      this.#options.onFull();
    }
    this.#wake?.();
  }

  /** Makes the reader throw at once; what is still queued is dropped. */
  fail(reason: unknown): void {
    this.#error ??= { reason };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, never, undefined> {
    for (;;) {
      if (this.#error) throw this.#error.reason;
      const item = this.#items.shift();
      if (item === undefined) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      this.#takenCount++;
      this.#tellDrained();
      yield item;
    }
  }

  #tellDrained(): void {
    if (!this.#options || !this.#isFull || this.#items.length > this.#options.itemsMax / 2) return;
    this.#isFull = false;
    this.#options.onDrained();
  }
}
