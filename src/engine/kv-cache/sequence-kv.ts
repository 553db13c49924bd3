/** Where a sequence's keys and values lie, and which of them its next tokens can see. Plain data and arithmetic. */

/**
 * Per group, the block table of a sequence: physical block of each logical block; 0 (null block) where given back.
 * All tables are equally long.
 */
export interface SequenceKv {
  readonly tables: number[][];
}

/** Blocks that so many tokens fill. */
export function blocksFor(tokens: number, blockSize: number): number {
  return Math.ceil(tokens / blockSize);
}

/** The first logical block that a query at `position`, or a later one, sees; `window` null sees everything. */
export function firstSeenBlock(window: number | null, position: number, blockSize: number): number {
  return window === null ? 0 : Math.floor(Math.max(0, position - window + 1) / blockSize);
}
