import { describe, expect, test } from "bun:test";
import { type LoadOptions, runLoad } from "../../../src/commands/load-test/load.ts";
import { VirtualTime } from "./virtual-time.ts";

/** Runs a load whose request `i` takes `durationsMs[i]`; logs when each is sent. */
async function run(
  durationsMs: readonly number[],
  rest: Partial<LoadOptions<string>> & { stopAtMs?: number },
) {
  const time = new VirtualTime();
  const stop = new AbortController();
  if (rest.stopAtMs !== undefined) void time.sleep(rest.stopAtMs).then(() => stop.abort());
  const sent: [index: number, atMs: number][] = [];
  const running = runLoad({
    arrivalsMs: durationsMs.map(() => 0),
    concurrencyMax: Infinity,
    now: time.now,
    sleep: time.sleep,
    signal: stop.signal,
    send: async (index) => {
      sent.push([index, time.now()]);
      await time.sleep(durationsMs[index], stop.signal);
      return stop.signal.aborted ? "cancelled" : "completed";
    },
    ...rest,
  });
  await time.runUntil(running);
  return { sent, ...(await running) };
}

describe("an open loop", () => {
  test("sends at the planned times, however long the answers take", async () => {
    const { sent, durationMs, requests } = await run([500, 10, 10], { arrivalsMs: [5, 20, 35] });
    expect(sent).toEqual([
      [0, 5],
      [1, 20],
      [2, 35],
    ]);
    expect(durationMs).toBe(505);
    expect(requests.map(({ arrivalMs }) => arrivalMs)).toEqual([5, 20, 35]);
  });

  test("without a rate sends all at once", async () => {
    const { sent, durationMs } = await run([30, 20, 10], {});
    expect(sent.map(([, atMs]) => atMs)).toEqual([0, 0, 0]);
    expect(durationMs).toBe(30);
  });

  test("keeps arrivals apart from sending when requests in flight are limited", async () => {
    const { sent, requests } = await run([30, 100, 10, 10], { concurrencyMax: 2, arrivalsMs: [0, 0, 1, 2] });
    expect(sent).toEqual([
      [0, 0],
      [1, 0],
      [2, 30],
      [3, 40],
    ]);
    expect(requests.map(({ arrivalMs }) => arrivalMs)).toEqual([0, 0, 1, 2]);
  });

  test("tells of each request as it ends", async () => {
    const ends: string[] = [];
    await run([3, 2, 1], { onDone: (result) => ends.push(result) });
    expect(ends).toEqual(["completed", "completed", "completed"]);
  });
});

describe("a stop", () => {
  test("ends waiting for an arrival", async () => {
    const { sent, requests, durationMs } = await run([1, 1], { arrivalsMs: [5, 1000], stopAtMs: 50 });
    expect([sent.length, requests.length, durationMs]).toEqual([1, 1, 50]);
  });

  test("sends nothing of what waits for a slot", async () => {
    const { sent, requests } = await run([100, 100, 100], { concurrencyMax: 1, stopAtMs: 50 });
    expect(sent.length).toBe(1);
    expect(requests.map(({ result }) => result)).toEqual(["cancelled"]);
  });
});
