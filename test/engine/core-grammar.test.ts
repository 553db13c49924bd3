/** Requests whose answers follow a grammar: masks, waiting for the grammar, its end; and all that may come between. */
import { describe, expect, test } from "bun:test";
import type { Guide } from "../../src/engine/grammar/grammar-pool.ts";
import type { GrammarSource } from "../../src/engine/grammar/protocol.ts";
import { allowedMask } from "../../src/engine/sampling/penalties.ts";
import { CoreHarness, coreRequest, promptOf, vocabSize } from "../support/core-harness.ts";
import { settled } from "../support/fake-runner.ts";

const grammarSource: GrammarSource = { kind: "ebnf", text: "root ::= a", param: null };

/** Follows when the test says so; allows the id after the last one, and ends when there are `length`. */
class ManualGuide {
  readonly ids: number[] = [];
  hasEnded = false;
  isClosed = false;
  /** Ids that are being followed. */
  waiting: PromiseWithResolvers<void> | null = null;
  readonly #length: number;

  constructor(length: number) {
    this.#length = length;
  }

  get mask(): Uint32Array {
    return allowedMask([20 + this.ids.length], vocabSize);
  }

  follow(ids: readonly number[]): Promise<void> {
    this.waiting = Promise.withResolvers();
    return this.waiting.promise.then(() => {
      this.ids.push(...ids);
      this.hasEnded = this.ids.length >= this.#length;
    });
  }

  close(): void {
    this.isClosed = true;
  }
}

class ManualGrammars {
  readonly guides: ManualGuide[] = [];
  readonly opened: { count: number; signal: AbortSignal; done: PromiseWithResolvers<void> }[] = [];
  readonly #length: number;

  constructor(length = Infinity) {
    this.#length = length;
  }

  async open(_source: GrammarSource, count: number, signal: AbortSignal): Promise<Guide[]> {
    const done = Promise.withResolvers<void>();
    this.opened.push({ count, signal, done });
    await done.promise;
    const guides = Array.from({ length: count }, () => new ManualGuide(this.#length));
    this.guides.push(...guides);
    return guides as unknown as Guide[];
  }

  stats(): { kept: number; threadLosses: number } {
    return { kept: this.opened.length, threadLosses: 0 };
  }

  /** Lets all that wait go on, until nothing does. */
  async run(): Promise<void> {
    for (let isBusy = true; isBusy;) {
      for (const { done } of this.opened) done.resolve();
      await settled();
      const waiting = this.guides.flatMap((guide) => guide.waiting ?? []);
      for (const guide of this.guides) guide.waiting = null;
      for (const { resolve } of waiting) resolve();
      await settled();
      isBusy = waiting.length > 0;
    }
  }
}

function setUp(grammars = new ManualGrammars()) {
  const engine = new CoreHarness({ script: ({ step }) => 20 + step, grammars });
  const masks = (id: string) =>
    engine.runner.steps.flatMap(({ plan, rows }) => {
      const edits = [...(plan.edits?.main ?? []), ...(plan.edits?.layered ?? [])];
      return edits.filter((_, row) => rows[row].requestId === id).map(({ mask }) => mask);
    });
  return { engine, grammars, masks };
}

describe("an answer with a grammar", () => {
  test("waits for its grammar before each id, and its rows have the grammar's masks", async () => {
    const { engine, grammars, masks } = setUp();
    engine.submit({ ...coreRequest("a"), grammarSource });
    await settled();
    expect(engine.runner.steps).toEqual([]);
    grammars.opened[0].done.resolve();
    await settled();
    // One id, and no other before the grammar has followed it.
    expect(engine.ids("a")).toEqual([20]);
    await grammars.run();
    expect([engine.ids("a"), engine.finish("a")]).toEqual([[20, 21, 22], "length"]);
    expect(masks("a")).toEqual([20, 21, 22].map((id) => allowedMask([id], vocabSize)));
    expect(grammars.guides[0].isClosed).toBe(true);
    expect(engine.blocksUsed()).toBe(0);
  });

  test("does not hold up others, which have no masks", async () => {
    const { engine, grammars, masks } = setUp();
    engine.submit({ ...coreRequest("a", { maxTokens: 9 }), grammarSource });
    await settled();
    grammars.opened[0].done.resolve();
    engine.submit(coreRequest("b", { promptIds: promptOf(6), maxTokens: 9 }));
    await settled();
    expect([engine.ids("a").length, engine.ids("b").length]).toEqual([1, 9]);
    expect(masks("b").every((mask) => mask === null)).toBe(true);
  });

  test("ends where the grammar does, without a token that says so", async () => {
    const { engine, grammars } = setUp(new ManualGrammars(2));
    engine.submit({ ...coreRequest("a", { maxTokens: 9, minTokens: 5 }), grammarSource });
    await grammars.run();
    expect([engine.ids("a"), engine.finish("a")]).toEqual([[20, 21], "stop"]);
    expect(grammars.guides[0].isClosed).toBe(true);
    expect(engine.blocksUsed()).toBe(0);
  });

  test("may choose only what its allowed ids leave of it", async () => {
    const { engine, grammars, masks } = setUp();
    engine.submit({ ...coreRequest("a", { allowedTokenIds: [20, 22, 40] }), grammarSource });
    await grammars.run();
    expect(masks("a")).toEqual([[20], [], [22]].map((ids) => allowedMask(ids, vocabSize)));
  });

  test("has a guide of its own for each of several", async () => {
    const { engine, grammars } = setUp();
    engine.submit({ ...coreRequest("a", { n: 3 }), grammarSource });
    await grammars.run();
    expect(grammars.opened[0].count).toBe(3);
    for (const choice of [0, 1, 2]) expect(engine.ids("a", choice)).toEqual([20, 21, 22]);
    expect(grammars.guides.map(({ isClosed }) => isClosed)).toEqual([true, true, true]);
  });

  test("goes on after it has lost its blocks", async () => {
    const grammars = new ManualGrammars();
    const engine = new CoreHarness({ script: ({ step }) => 20 + step, grammars, blockCount: 7 });
    engine.submit({ ...coreRequest("a", { maxTokens: 14 }), grammarSource });
    engine.submit({ ...coreRequest("b", { promptIds: promptOf(6), maxTokens: 14 }), grammarSource });
    await grammars.run();
    for (const id of ["a", "b"]) {
      expect(engine.ids(id)).toEqual(Array.from({ length: 14 }, (_, step) => 20 + step));
    }
    expect(engine.core.stats().preemptions).toBeGreaterThan(0);
  });
});

describe("what may come between", () => {
  test("a grammar that is refused: the sink is told, and nothing runs", async () => {
    const { engine, grammars } = setUp();
    engine.submit({ ...coreRequest("a"), grammarSource });
    await settled();
    const refusal = new Error("refused");
    grammars.opened[0].done.reject(refusal);
    await settled();
    expect(engine.errors.get("a")).toBe(refusal);
    expect(engine.runner.steps).toEqual([]);
  });

  test("a grammar that cannot go on: the request fails, others go on", async () => {
    const { engine, grammars } = setUp();
    engine.submit({ ...coreRequest("a"), grammarSource });
    engine.submit({ ...coreRequest("b", { promptIds: promptOf(6) }), grammarSource });
    await settled();
    for (const { done } of grammars.opened) done.resolve();
    await settled();
    const dead = new Error("dead end");
    grammars.guides[0].waiting?.reject(dead);
    grammars.guides[0].waiting = null;
    await grammars.run();
    expect(engine.errors.get("a")).toBe(dead);
    expect(engine.finish("b")).toBe("length");
    expect(grammars.guides.map(({ isClosed }) => isClosed)).toEqual([true, true]);
    expect(engine.blocksUsed()).toBe(0);
  });

  test("a cancellation while the grammar is compiled: it is not wanted any more, and nothing is told", async () => {
    const { engine, grammars } = setUp();
    engine.submit({ ...coreRequest("a"), grammarSource });
    await settled();
    engine.core.cancel("a");
    expect(grammars.opened[0].signal.aborted).toBe(true);
    await grammars.run();
    expect([engine.events.get("a"), engine.errors.size, engine.runner.steps.length]).toEqual([[], 0, 0]);
    expect(grammars.guides[0].isClosed).toBe(true);
  });

  test("a cancellation while the grammar follows", async () => {
    const { engine, grammars } = setUp();
    engine.submit({ ...coreRequest("a"), grammarSource });
    await settled();
    grammars.opened[0].done.resolve();
    await settled();
    engine.core.cancel("a");
    await grammars.run();
    expect(engine.ids("a")).toEqual([20]);
    expect([engine.finish("a"), engine.errors.size, engine.blocksUsed()]).toEqual([null, 0, 0]);
    expect(grammars.guides[0].isClosed).toBe(true);
  });

  test("the engine's end", async () => {
    const { engine, grammars } = setUp();
    engine.submit({ ...coreRequest("a"), grammarSource });
    engine.submit({ ...coreRequest("b", { promptIds: promptOf(6) }), grammarSource });
    await settled();
    grammars.opened[0].done.resolve();
    await settled();
    await engine.core.close();
    expect(grammars.opened[1].signal.aborted).toBe(true);
    await grammars.run();
    expect(engine.errors.size).toBe(0);
    expect(grammars.guides.every(({ isClosed }) => isClosed)).toBe(true);
  });
});
