/** Physical blocks of the KV cache: which are free. A block holds the same tokens in every layer. */
export class BlockPool {
  readonly blockCount: number;
  readonly #free: number[];

  constructor(blockCount: number) {
    this.blockCount = blockCount;
    this.#free = Array.from({ length: blockCount }, (_, index) => blockCount - 1 - index);
  }

  get freeCount(): number {
    return this.#free.length;
  }

  /** Takes `count` blocks, lowest numbers first on a fresh pool. Returns null, taking none, when there are too few. */
  allocate(count: number): number[] | null {
    if (count > this.#free.length) return null;
    return Array.from({ length: count }, () => this.#free.pop() as number);
  }

  /** Gives blocks back. A block that is free already is a bug of the caller. */
  release(blocks: readonly number[]): void {
    for (const block of blocks) {
      if (this.#free.includes(block)) throw new Error(`Cannot release KV block ${block}: it is free already`);
      this.#free.push(block);
    }
  }
}
