/** Threads of matchers that hang, fail and die: what is broken is refused, and nobody else notices. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { GRAMMAR_THREADS_MAX, GRAMMARS_KEPT_MAX } from "../../../src/limits.ts";
import { InvalidRequestError } from "../../../src/engine/errors.ts";
import type { FromMatchers, GrammarSource, ToMatchers } from "../../../src/engine/grammar/protocol.ts";
import { accepts, allowedIds, bytesPool, openGuide, stopId } from "../../support/grammar.ts";
import { FakeTimers } from "../../support/fake-thread.ts";
import { settled } from "../../support/fake-runner.ts";
import { rejection } from "../../support/rejection.ts";

setDefaultTimeout(120_000);

const wanted = new AbortController().signal;
const sourceOf = (text: string): GrammarSource => ({ kind: "ebnf", text, param: "here" });

describe("real threads", () => {
  const pool = bytesPool();
  afterAll(() => pool.close());

  test("44 grammars in a row that cannot be read are refused with the reason, and answers under way go on", async () => {
    const guide = await openGuide(pool, { type: "ebnf", grammar: 'root ::= "a" [b-d] "e"' });
    await guide.follow([0x61]);
    for (let count = 0; count < 44; count++) {
      const error = await rejection(pool.open(sourceOf(`root ::= "${count}" (`), 1, wanted));
      expect(error).toBeInstanceOf(InvalidRequestError);
      expect(error.message).toMatch(/^Cannot compile the grammar: EBNF parser error at line 1/);
      expect((error as InvalidRequestError).param).toBe("here");
    }
    expect(pool.stats().threadLosses).toBe(44);
    expect(allowedIds(guide)).toEqual([0x62, 0x63, 0x64]);
    await guide.follow([0x63]);
    expect(allowedIds(guide)).toEqual([0x65]);
    await guide.follow([0x65]);
    expect(guide.hasEnded).toBe(true);
    guide.close();
    expect(await accepts(pool, { type: "choice", choices: ["yes", "no"] }, "no")).toBe(true);
  });

  test("a matcher that shares the thread of a grammar that cannot be read is made anew", async () => {
    const single = bytesPool();
    const guides = [];
    // All threads have an answer to follow, so what comes next must share.
    for (let count = 0; count < GRAMMAR_THREADS_MAX; count++) {
      const guide = await openGuide(single, { type: "ebnf", grammar: `root ::= "ab${count}c"` });
      await guide.follow([0x61, 0x62]);
      guides.push(guide);
    }
    await rejection(single.open(sourceOf("root ::= ("), 1, wanted));
    await Promise.all(guides.map((guide, count) => guide.follow([0x30 + count])));
    expect(guides.map(allowedIds)).toEqual(guides.map(() => [0x63]));
    single.close();
  });

  test("text that does not fit is a dead end, which names the parameter", async () => {
    const guide = await openGuide(pool, {
      type: "ebnf",
      grammar: 'root ::= "ab"',
      param: "structured_outputs",
    });
    const error = await rejection(guide.follow([0x62]));
    expect(error).toBeInstanceOf(InvalidRequestError);
    expect((error as InvalidRequestError).param).toBe("structured_outputs");
    guide.close();
  });

  test("where the answer may end or go on, the stop id is one of those allowed; at the end it ends", async () => {
    const guide = await openGuide(pool, { type: "ebnf", grammar: 'root ::= "a" "b"?' });
    expect(allowedIds(guide)).toEqual([0x61]);
    await guide.follow([0x61]);
    expect([allowedIds(guide), guide.hasEnded]).toEqual([[0x62, stopId], false]);
    await guide.follow([0x62]);
    expect(guide.hasEnded).toBe(true);
    guide.close();
  });
});

/** A thread that answers when the test says so. */
class FakeMatchers {
  readonly sent: ToMatchers[] = [];
  onmessage: ((event: { data: FromMatchers }) => void) | null = null;
  onerror: ((event: ErrorEvent) => void) | null = null;
  isTerminated = false;
  /** Whether a message is answered at once. */
  readonly #answers: (message: ToMatchers) => boolean;

  constructor(answers: (message: ToMatchers) => boolean) {
    this.#answers = answers;
  }

  postMessage(message: ToMatchers): void {
    this.sent.push(message);
    if (this.#answers(message)) queueMicrotask(() => this.answer(message));
  }

  answer(message: ToMatchers): void {
    if (message.type === "forget" || message.type === "close") return;
    const moves = message.type === "move" ? message.moves : [];
    const results = moves.map(({ ids }) => ({ mask: Uint32Array.of(ids.length), state: "open" as const }));
    this.onmessage?.({ data: { type: "done", results } });
  }

  terminate(): void {
    this.isTerminated = true;
  }

  ofType<T extends ToMatchers["type"]>(type: T): Extract<ToMatchers, { type: T }>[] {
    return this.sent.filter((message): message is Extract<ToMatchers, { type: T }> => message.type === type);
  }
}

function fakePool(answers: (message: ToMatchers) => boolean = () => true) {
  const threads: FakeMatchers[] = [];
  const timers = new FakeTimers();
  const pool = bytesPool({
    startTimer: timers.start,
    createWorker: () => {
      threads.push(new FakeMatchers(answers));
      return threads[threads.length - 1] as unknown as Worker;
    },
  });
  return { pool, threads, timers };
}

describe("threads in theory", () => {
  test("a grammar that takes too long is refused, and its thread ended", async () => {
    const { pool, threads, timers } = fakePool(
      (message) => message.type !== "compile" || message.source.text !== "slow",
    );
    const slow = rejection(pool.open(sourceOf("slow"), 1, wanted));
    await settled();
    timers.expire();
    expect((await slow).message).toMatch(/^Cannot compile the grammar: .* it took longer than \d+ s$/);
    expect([threads[0].isTerminated, pool.stats().threadLosses]).toEqual([true, 1]);
    await pool.open(sourceOf("good"), 1, wanted);
    expect(threads.length).toBe(2);
    expect(timers.delays).toEqual([]);
  });

  test("while one compiles, another thread takes what comes", async () => {
    const { pool, threads } = fakePool(
      (message) => message.type !== "compile" || message.source.text !== "slow",
    );
    void pool.open(sourceOf("slow"), 1, wanted);
    await settled();
    const [guide] = await pool.open(sourceOf("good"), 1, wanted);
    await guide.follow([1]);
    expect(threads.length).toBe(2);
  });

  test("a compiled grammar is compiled once", async () => {
    const { pool, threads } = fakePool();
    for (let count = 0; count < 3; count++) await pool.open(sourceOf("good"), 2, wanted);
    expect([threads.length, threads[0].ofType("compile").length, pool.stats().kept]).toEqual([1, 1, 1]);
  });

  test("a thread that dies is replaced, and the new one told all of an answer", async () => {
    const { pool, threads } = fakePool();
    const [guide, other] = await pool.open(sourceOf("good"), 2, wanted);
    await guide.follow([5, 6]);
    await guide.follow([7]);
    threads[0].onerror?.({ message: "died", preventDefault: () => {} } as unknown as ErrorEvent);
    await Promise.all([guide.follow([8]), other.follow([9])]);
    expect(threads[0].ofType("move").map(({ moves }) => moves.map(({ ids }) => ids))).toEqual([
      [[], []],
      [[5, 6]],
      [[7]],
    ]);
    expect(threads[1].ofType("compile").length).toBe(1);
    expect(threads[1].ofType("move").map(({ moves }) => moves.map(({ ids }) => ids))).toEqual([
      [[5, 6, 7, 8], [9]],
    ]);
  });

  test("of the answers that a hung thread followed, each is tried once more by itself", async () => {
    const { pool, threads, timers } = fakePool(
      (message) => message.type !== "move" || !message.moves.some(({ ids }) => ids.includes(13)),
    );
    const guides = await pool.open(sourceOf("good"), 3, wanted);
    const moves = guides.map((guide, index) => guide.follow([[1], [13], [2]][index]));
    const outcomes = Promise.allSettled(moves);
    for (let count = 0; count < 4; count++) {
      await settled();
      timers.expire();
    }
    expect((await outcomes).map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect([pool.stats().threadLosses, threads.length]).toEqual([2, 3]);
  });

  test("of many grammars those that were used last are kept, and those in use", async () => {
    const { pool, threads } = fakePool();
    const [guide] = await pool.open(sourceOf("used"), 1, wanted);
    // A thread with an answer to follow takes new grammars only when all have one.
    for (let count = 1; count < GRAMMAR_THREADS_MAX; count++)
      await pool.open(sourceOf(`busy ${count}`), 3, wanted);
    for (let count = 0; count < GRAMMARS_KEPT_MAX; count++) {
      const [one] = await pool.open(sourceOf(`${count}`), 1, wanted);
      one.close();
    }
    const forgotten = threads.map((thread) => thread.ofType("forget").length);
    expect(forgotten).toEqual([1, 0, 0]);
    const [first] = threads[0].ofType("compile").filter(({ source }) => source.text === "0");
    expect(threads[0].ofType("forget")[0].grammar).toBe(first.grammar);
    await guide.follow([1]);
    expect(threads[0].ofType("compile").length).toBe(1 + GRAMMARS_KEPT_MAX);
  });

  test("one that is not wanted any more is not compiled", async () => {
    const { pool, threads, timers } = fakePool((message) => message.type !== "compile");
    const abort = new AbortController();
    const slow = Array.from({ length: GRAMMAR_THREADS_MAX }, (_, count) =>
      rejection(pool.open(sourceOf(`slow ${count}`), 1, wanted)),
    );
    const waiting = rejection(pool.open(sourceOf("waiting"), 1, abort.signal));
    await settled();
    abort.abort(new Error("left"));
    timers.expire();
    await Promise.all(slow);
    expect((await waiting).message).toBe("left");
    const compiled = threads.flatMap((thread) => thread.ofType("compile").map(({ source }) => source.text));
    expect(compiled.toSorted()).toEqual(slow.map((_, count) => `slow ${count}`));
  });
});
