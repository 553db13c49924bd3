/** A queue from callbacks to one asynchronous reader. */
export class EventQueue<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  #error: { reason: unknown } | null = null;
  #wake: (() => void) | null = null;

  push(item: T): void {
    this.#items.push(item);
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
      if (item !== undefined) yield item;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
