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
