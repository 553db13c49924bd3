/**
 * A naive model of sequences over a `KvManager`: a memory in which every slot says which token of which text it holds,
 * and books kept by counting. Random operations run on both; whatever the manager hands out must hold what its
 * sequences wrote, and it must refuse exactly when the blocks are held by others.
 */
import { expect } from "bun:test";
import type { KvPolicy } from "../../../src/engine/kv-cache/aggregate.ts";
import { type BlockCopy, KvManager, type SequenceKv } from "../../../src/engine/kv-cache/kv-manager.ts";

export interface SimulationOptions {
  policy: KvPolicy;
  blockCounts: readonly number[];
  seed: number;
  /** Ids, prefix lengths and salts that requests are made of. */
  idsMax: number;
  /** Nothing is ever evicted: hits are then known exactly. */
  isRoomy?: boolean;
}

interface Sequence {
  kv: SequenceKv;
  ids: number[];
  prefixLength: number;
  salt: string;
  computed: number;
  isLastRecomputed: boolean;
}

/** How often each thing happened that a run is to show. */
export interface Seen {
  hits: number;
  copies: number;
  refusals: number;
  evictions: number;
  recomputed: number;
  givenBack: number;
}

const blockSize = 4;
const sequencesMax = 6;

/** Uniform integers below `limit`, the same ones for the same seed (mulberry32). */
export function seededIntegers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}

export class KvSimulation {
  readonly seen: Seen = { hits: 0, copies: 0, refusals: 0, evictions: 0, recomputed: 0, givenBack: 0 };
  readonly #options: SimulationOptions;
  readonly #manager: KvManager;
  readonly #below: (limit: number) => number;
  /** By group and block: what each slot holds. */
  readonly #memory: string[][][];
  readonly #committed = new Set<string>();
  #sequences: Sequence[] = [];

  constructor(options: SimulationOptions) {
    const { policy, blockCounts, seed } = options;
    this.#options = options;
    this.#manager = new KvManager({ policy, blockCounts, blockSize, model: "m" });
    this.#below = seededIntegers(seed);
    this.#memory = blockCounts.map((count) => Array.from({ length: count }, () => []));
  }

  run(operations: number): void {
    for (let done = 0; done < operations; done++) {
      this.#operate();
      this.#check();
    }
    for (const { kv } of this.#sequences) this.#manager.release(kv);
    this.#sequences = [];
    this.#check();
    this.seen.evictions = this.#manager.stats().evictions;
  }

  #operate(): void {
    const choice = this.#below(10);
    const sequence = this.#sequences[this.#below(sequencesMax)];
    if (!sequence) return this.#start();
    if (choice < 6) this.#advance(sequence);
    else if (choice === 6) this.#fork(sequence);
    else if (choice === 7) this.#preempt(sequence);
    else if (choice === 8) this.#trim(sequence);
    else this.#end(sequence);
  }

  #start(): void {
    if (this.#sequences.length === sequencesMax) return;
    const ids = Array.from({ length: 1 + this.#below(this.#options.idsMax) }, () => 0);
    // Texts differ in few places, so that many of them share a beginning.
    if (this.#below(2) === 0) ids[this.#below(ids.length)] = 1;
    const isWhole = this.#options.policy.nonCausal;
    // A whole prompt, a part of it, or a causal request.
    const prefixLength = isWhole ? [ids.length, this.#below(ids.length), 0][this.#below(3)] : 0;
    const salt = this.#below(4) === 0 ? "b" : "a";
    const kv = this.#manager.newSequence();
    const sequence = { kv, ids, prefixLength, salt, computed: 0, isLastRecomputed: false };
    this.#adopt(sequence);
    this.#sequences.push(sequence);
  }

  #adopt(sequence: Sequence): void {
    const hit = this.#manager.adopt(sequence.kv, sequence);
    sequence.computed = hit.tokens;
    sequence.isLastRecomputed = hit.isLastRecomputed;
    if (hit.kind !== "none") this.seen.hits++;
    expect(hit.tokens).toBeLessThan(Math.max(1, sequence.ids.length));
    if (this.#options.isRoomy) expect(hit.tokens).toBe(this.#bestHit(sequence));
  }

  /** What a cache that forgets nothing finds. */
  #bestHit({ ids, prefixLength, salt }: Sequence): number {
    const { prefixReuse } = this.#options.policy;
    if (prefixReuse === "whole") {
      const isKnown =
        prefixLength > 1 && this.#committed.has(label({ ids, prefixLength, salt }, prefixLength - 1));
      return isKnown ? Math.min(prefixLength, ids.length - 1) : 0;
    }
    let tokens = 0;
    while (
      tokens + blockSize < ids.length &&
      this.#committed.has(label({ ids, prefixLength, salt }, tokens + blockSize - 1))
    ) {
      tokens += blockSize;
    }
    return prefixReuse === "none" ? 0 : tokens;
  }

  #advance(sequence: Sequence): void {
    const { kv, ids, prefixLength, computed } = sequence;
    if (sequence.isLastRecomputed) {
      expect(this.#manager.grow(kv, { start: prefixLength, end: prefixLength })).toEqual([]);
      this.seen.recomputed++;
      sequence.isLastRecomputed = false;
      this.#commit(sequence, prefixLength);
      return;
    }
    if (computed === ids.length) ids.push(this.#below(2));
    const endMin = Math.max(prefixLength, computed + 1);
    const end = endMin + this.#below(ids.length - endMin + 1);
    const copies = this.#grow(kv, computed, end);
    if (!copies) return;
    for (let position = computed; position < end; position++) this.#write(sequence, position);
    this.#commit(sequence, end);
  }

  #commit(sequence: Sequence, computed: number): void {
    sequence.computed = computed;
    // The last id of a decode is often not read yet.
    const isPending = computed > sequence.prefixLength && this.#below(2) === 0;
    const known = isPending ? sequence.ids.slice(0, computed - 1) : sequence.ids;
    this.#manager.commit(sequence.kv, { ...sequence, ids: known }, computed);
    const end = Math.min(known.length, computed);
    const { prefixReuse } = this.#options.policy;
    for (let position = 0; position < end; position++) {
      const isPrefixEnd = position === sequence.prefixLength - 1;
      const isBlockEnd = (position + 1) % blockSize === 0;
      if (prefixReuse === "whole" ? isPrefixEnd : isBlockEnd) this.#committed.add(label(sequence, position));
    }
  }

  /** Grows, and holds the answer against what counting says. */
  #grow(kv: SequenceKv, start: number, end: number): BlockCopy[] | null {
    const before = structuredClone({ tables: kv.tables, stats: this.#manager.stats() });
    const needs = kv.tables.map((_, group) => this.#needed(kv, group, start, end));
    const isShort = needs.some(
      ({ added, copied }, group) => added + copied > this.#options.blockCounts[group] - 1 - this.#used(group),
    );
    const copies = this.#manager.grow(kv, { start, end });
    expect(copies === null).toBe(isShort);
    if (!copies) {
      this.seen.refusals++;
      expect({ tables: kv.tables, stats: this.#manager.stats() }).toEqual(before);
      return null;
    }
    needs.forEach(({ copied }, index) =>
      expect(copies.filter(({ group }) => group === index).length).toBe(copied),
    );
    for (const { group, from, to } of copies) this.#memory[group][to] = [...this.#memory[group][from]];
    this.seen.copies += copies.length;
    return copies;
  }

  #needed(kv: SequenceKv, group: number, start: number, end: number): { added: number; copied: number } {
    const table = kv.tables[group];
    const written = table.slice(Math.floor(start / blockSize), Math.ceil(end / blockSize));
    const holders = this.#sequences.flatMap(({ kv: { tables } }) => tables[group]);
    const copied = written.filter((block) => holders.filter((other) => other === block).length > 1).length;
    return { added: Math.max(0, Math.ceil(end / blockSize) - table.length), copied };
  }

  #used(group: number): number {
    const held = new Set(this.#sequences.flatMap(({ kv: { tables } }) => tables[group]));
    held.delete(0);
    return held.size;
  }

  #write(sequence: Sequence, position: number): void {
    sequence.kv.tables.forEach((table, group) => {
      const block = table[Math.floor(position / blockSize)];
      expect(block).toBeGreaterThan(0);
      this.#memory[group][block][position % blockSize] = label(sequence, position);
    });
  }

  #fork(sequence: Sequence): void {
    if (this.#sequences.length === sequencesMax || sequence.isLastRecomputed) return;
    this.#sequences.push({ ...sequence, ids: [...sequence.ids], kv: this.#manager.fork(sequence.kv) });
  }

  #preempt(sequence: Sequence): void {
    this.#manager.release(sequence.kv);
    expect(sequence.kv.tables.flat()).toEqual([]);
    this.#adopt(sequence);
  }

  #trim({ kv, computed, isLastRecomputed }: Sequence): void {
    if (isLastRecomputed) return;
    const before = kv.tables.flat().filter((block) => block === 0).length;
    this.#manager.trim(kv, computed);
    this.seen.givenBack += kv.tables.flat().filter((block) => block === 0).length - before;
  }

  #end(sequence: Sequence): void {
    this.#manager.release(sequence.kv);
    this.#sequences = this.#sequences.filter((other) => other !== sequence);
  }

  #check(): void {
    this.#manager.audit(this.#sequences.map(({ kv }) => kv));
    const { groups } = this.#manager.stats();
    groups.forEach(({ blocks, free, cached, used }, group) => {
      expect(used).toBe(this.#used(group));
      expect(free + cached + used).toBe(blocks);
    });
    for (const sequence of this.#sequences) this.#checkContents(sequence);
  }

  /** Every token that the next query of the sequence sees is where the block table says. */
  #checkContents(sequence: Sequence): void {
    const { computed, isLastRecomputed, kv } = sequence;
    this.#options.policy.groups.forEach(({ window }, group) => {
      const first = window === null ? 0 : Math.max(0, computed - window + 1);
      for (let position = first; position < computed + (isLastRecomputed ? 1 : 0); position++) {
        const block = kv.tables[group][Math.floor(position / blockSize)];
        const found = block === 0 ? "given back" : this.#memory[group][block][position % blockSize];
        if (found !== label(sequence, position)) {
          throw new Error(
            `position ${position} of group ${group}: expected ${label(sequence, position)}, got ${found}`,
          );
        }
      }
    });
  }
}

/** All that the keys and values of a token depend on, and the salt, which must not be crossed either. */
function label(
  { ids, prefixLength, salt }: Pick<Sequence, "ids" | "prefixLength" | "salt">,
  position: number,
): string {
  return `${salt} ${prefixLength} ${ids.slice(0, Math.max(prefixLength, position + 1)).join("")} ${position}`;
}
