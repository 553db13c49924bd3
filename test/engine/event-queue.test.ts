import { describe, expect, test } from "bun:test";
import { EventQueue } from "../../src/engine/event-queue.ts";
import { rejection } from "../support/rejection.ts";

describe("EventQueue", () => {
  test("gives items in order, those before and those after the reader came", async () => {
    const queue = new EventQueue<number>();
    queue.push(1);
    queue.push(2);
    const reader = queue[Symbol.asyncIterator]();
    expect((await reader.next()).value).toBe(1);
    expect((await reader.next()).value).toBe(2);
    const third = reader.next();
    queue.push(3);
    queue.push(4);
    expect((await third).value).toBe(3);
    expect((await reader.next()).value).toBe(4);
  });

  test("a failure wakes a reader that waits", async () => {
    const queue = new EventQueue<number>();
    const waiting = queue[Symbol.asyncIterator]().next();
    queue.fail(new Error("gone"));
    expect((await rejection(waiting)).message).toBe("gone");
  });

  test("a failure goes before what is queued, and the first one stays", async () => {
    const queue = new EventQueue<number>();
    queue.push(1);
    queue.fail(new Error("first"));
    queue.fail(new Error("second"));
    queue.push(2);
    expect((await rejection(queue[Symbol.asyncIterator]().next())).message).toBe("first");
  });

  test("a failure without a reason still fails", async () => {
    const queue = new EventQueue<number>();
    queue.fail(undefined);
    expect(await rejection(queue[Symbol.asyncIterator]().next())).toBeUndefined();
  });

  test("holds falsy items", async () => {
    const queue = new EventQueue<number | null | string>();
    for (const item of [0, null, ""]) queue.push(item);
    const reader = queue[Symbol.asyncIterator]();
    expect([await reader.next(), await reader.next(), await reader.next()].map(({ value }) => value)).toEqual(
      [0, null, ""],
    );
  });
});

describe("a reader that falls behind", () => {
  /** A queue of at most 4, and what it said of its reader. */
  function watched() {
    const said: string[] = [];
    const queue = new EventQueue<number>({
      itemsMax: 4,
      onFull: () => said.push("full"),
      onDrained: () => said.push("drained"),
    });
    return { queue, said, reader: queue[Symbol.asyncIterator]() };
  }

  test("is told of once, and again only after it has caught up with half", async () => {
    const { queue, said, reader } = watched();
    for (const item of [1, 2, 3]) queue.push(item);
    expect(said).toEqual([]);
    for (const item of [4, 5, 6]) queue.push(item);
    expect(said).toEqual(["full"]);
    for (const item of [1, 2, 3]) expect((await reader.next()).value).toBe(item);
    expect(said).toEqual(["full"]);
    expect((await reader.next()).value).toBe(4);
    expect(said).toEqual(["full", "drained"]);
    queue.push(7);
    expect(said.length).toBe(2);
    queue.push(8);
    expect(said).toEqual(["full", "drained", "full"]);
  });

  test("gets everything in order all the same", async () => {
    const { queue, said, reader } = watched();
    for (let item = 0; item < 20; item++) queue.push(item);
    for (let item = 0; item < 20; item++) expect((await reader.next()).value).toBe(item);
    expect(said).toEqual(["full", "drained"]);
    expect(queue.takenCount).toBe(20);
  });

  test("is not told of while it keeps up", async () => {
    const { queue, said, reader } = watched();
    for (let item = 0; item < 20; item++) {
      queue.push(item);
      await reader.next();
    }
    expect(said).toEqual([]);
  });

  test("counts what it took, not what is queued", async () => {
    const { queue, reader } = watched();
    const waiting = reader.next();
    expect(queue.takenCount).toBe(0);
    queue.push(1);
    queue.push(2);
    await waiting;
    expect(queue.takenCount).toBe(1);
  });

  test("gets the failure, not what was queued", async () => {
    const { queue, reader } = watched();
    for (let item = 0; item < 5; item++) queue.push(item);
    await reader.next();
    queue.fail(new Error("dropped"));
    expect((await rejection(reader.next())).message).toBe("dropped");
  });
});
