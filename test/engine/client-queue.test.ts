/** The client's queue: its limits, readers that do not read, and several answers of one request. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { GenerationEvent, GenerationRequest, SamplingParams } from "../../src/engine/client.ts";
import { EngineDeadError, QueueFullError, SlowReaderError } from "../../src/engine/errors.ts";
import { defaultEngineOptions } from "../../src/engine/load-engine.ts";
import type { ReadyInfo } from "../../src/engine/protocol.ts";
import { WorkerEngineClient } from "../../src/engine/worker-client.ts";
import {
  QUEUE_RETRY_SECONDS,
  QUEUED_REQUESTS_MAX,
  QUEUED_TOKENS_MAX,
  READER_EVENTS_MAX,
  SLOW_READER_MS_MAX,
} from "../../src/limits.ts";
import { FakeThread, FakeTimers } from "../support/fake-thread.ts";
import { settled } from "../support/fake-runner.ts";
import { rejection } from "../support/rejection.ts";
import { project } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const modelDir = project("models/hrm-text-tiny");
const opened: WorkerEngineClient[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((client) => client.close()));
});

async function open(info: Partial<ReadyInfo> = {}) {
  const thread = new FakeThread(info);
  const timers = new FakeTimers();
  const client = await WorkerEngineClient.start({
    engine: { ...defaultEngineOptions, modelDir },
    modelName: "tiny",
    created: 0,
    createWorker: () => thread.worker,
    startTimer: timers.start,
  });
  opened.push(client);
  /** A request under way, of which nothing has been read. */
  const start = async (id: string, sampling: Partial<SamplingParams> = {}, signal?: AbortSignal) => {
    const reader = client.submit(request(id, sampling), signal)[Symbol.asyncIterator]();
    const next = reader.next();
    next.catch(() => {}); // what a test does not wait for ends with the client
    await settled();
    return { next, reader };
  };
  /** Says ids of an answer, a message each. */
  const say = (id: string, ids: readonly number[], choice = 0) => {
    for (const each of ids) thread.say({ type: "tokens", id, choice, ids: [each] });
  };
  /** A request whose reader has taken the first event, with as many more waiting for it as make it slow. */
  const startSlow = async (id: string, signal?: AbortSignal) => {
    const { next, reader } = await start(id, {}, signal);
    const [first, ...rest] = tokens(1 + READER_EVENTS_MAX);
    say(id, [first]);
    expect(idOf(await next)).toBe(first);
    say(id, rest.slice(0, -1));
    expect(thread.sentOf(id)).toEqual([]);
    say(id, rest.slice(-1));
    expect(thread.sentOf(id)).toEqual([{ type: "pause", id }]);
    return { reader, rest };
  };
  return { client, thread, timers, start, startSlow, say };
}

function request(id: string, sampling: Partial<SamplingParams> = {}, promptIds = [40]): GenerationRequest {
  const greedy = { maxTokens: 1000, temperature: 0, topP: 1, topK: 0, minP: 0, seed: 0n, stop: [] };
  return { id, promptIds, sampling: { ...greedy, ...sampling } };
}

function tokens(count: number): number[] {
  return Array.from({ length: count }, (_, index) => 40 + (index % 50));
}

function idOf({ value }: IteratorResult<GenerationEvent, void>): number | undefined {
  return value?.type === "text" ? value.tokenIds[0] : undefined;
}

describe("a reader that does not read", () => {
  test("gets its request paused, while another goes on; it reads, and its own goes on too", async () => {
    const { thread, timers, start, startSlow, say } = await open();
    const quick = await start("quick");
    const { reader, rest } = await startSlow("slow");
    expect(timers.delays).toEqual([SLOW_READER_MS_MAX]);

    say("quick", [41]);
    expect(idOf(await quick.next)).toBe(41);
    expect(thread.sentOf("quick")).toEqual([]);

    const read: (number | undefined)[] = [];
    while (read.length < READER_EVENTS_MAX / 2) {
      expect(thread.sentOf("slow").length).toBe(1);
      read.push(idOf(await reader.next()));
    }
    expect(thread.sentOf("slow").at(-1)).toEqual({ type: "resume", id: "slow" });
    expect(timers.running.size).toBe(0);
    while (read.length < rest.length) read.push(idOf(await reader.next()));
    expect(read).toEqual(rest);
    await reader.return(undefined);
    await quick.reader.return(undefined);
  });

  test("for too long is dropped: its request at once, itself when it comes back", async () => {
    const { thread, timers, startSlow } = await open();
    const { reader } = await startSlow("slow");
    timers.expire();
    expect(thread.sentOf("slow")).toEqual([
      { type: "pause", id: "slow" },
      { type: "cancel", id: "slow" },
    ]);
    const error = await rejection(reader.next());
    expect(error).toBeInstanceOf(SlowReaderError);
    expect(error.message).toContain(`got none taken for ${SLOW_READER_MS_MAX / 1000} s`);
    expect(thread.sentOf("slow").length).toBe(2);
    expect(timers.running.size).toBe(0);
  });

  test("is not dropped as long as it takes something", async () => {
    const { thread, timers, startSlow } = await open();
    const { reader } = await startSlow("slow");
    for (let turn = 0; turn < 3; turn++) {
      await reader.next();
      timers.expire();
      expect(timers.delays).toEqual([SLOW_READER_MS_MAX]);
    }
    expect(thread.sentOf("slow")).toEqual([{ type: "pause", id: "slow" }]);
    timers.expire();
    expect(await rejection(reader.next())).toBeInstanceOf(SlowReaderError);
  });

  test("may leave while its request is paused", async () => {
    const { thread, timers, startSlow } = await open();
    const { reader } = await startSlow("slow");
    await reader.return(undefined);
    expect(thread.sentOf("slow").at(-1)).toEqual({ type: "cancel", id: "slow" });
    expect(timers.running.size).toBe(0);
  });

  test("does not keep what was aborted under way", async () => {
    const { thread, timers, startSlow } = await open();
    const abort = new AbortController();
    const { reader } = await startSlow("slow", abort.signal);
    abort.abort(new Error("gone"));
    expect(thread.sentOf("slow").at(-1)).toEqual({ type: "cancel", id: "slow" });
    expect(timers.running.size).toBe(0);
    expect((await rejection(reader.next())).message).toBe("gone");
    expect(thread.sentOf("slow").length).toBe(2);
  });

  test("hears of the engine's end, and leaves no timer", async () => {
    const { client, thread, timers, startSlow } = await open();
    const { reader } = await startSlow("slow");
    thread.say({ type: "dead", error: { name: "Error", message: "the device is lost" } });
    expect(timers.running.size).toBe(0);
    expect(client.healthy).toBe(false);
    await client.close();
    expect(await rejection(reader.next())).toBeInstanceOf(EngineDeadError);
  });
});

describe("the queue", () => {
  test(`holds ${QUEUED_REQUESTS_MAX} requests; one more is refused until one of them ends, however it ends`, async () => {
    const { client, thread, timers, start, say } = await open();
    const ids = Array.from({ length: QUEUED_REQUESTS_MAX }, (_, index) => `request ${index}`);
    const readers = ids.map((id) => client.submit(request(id))[Symbol.asyncIterator]());
    const nexts = readers.map((reader) => reader.next());
    for (const next of nexts) next.catch(() => {});
    const refused = async () => {
      const count = thread.sent.length;
      const error = await rejection(client.submit(request("more")).next());
      expect(error).toBeInstanceOf(QueueFullError);
      expect(error.message).toContain(`at most ${QUEUED_REQUESTS_MAX} requests`);
      expect((error as QueueFullError).retryAfterSeconds).toBe(QUEUE_RETRY_SECONDS);
      expect(thread.sent.length).toBe(count);
    };
    await refused();

    // Finished and read to its end; failed, and left; dropped for its reader, who has not come back.
    thread.say({ type: "finish", id: ids[0], choice: 0, reason: "length" });
    await nexts[0];
    await readers[0].next();
    await start("a");
    await refused();
    thread.say({ type: "failed", id: ids[1], error: { name: "Error", message: "no" } });
    await start("b");
    await refused();
    say(ids[2], [40]);
    await nexts[2];
    say(ids[2], tokens(READER_EVENTS_MAX));
    timers.expire();
    await start("c");
    await refused();

    expect((await rejection(nexts[1])).message).toBe("no");
    const ends = Promise.allSettled(nexts);
    await client.close();
    expect((await ends).filter(({ status }) => status === "rejected").length).toBe(QUEUED_REQUESTS_MAX - 2);
  });

  test(`holds ${QUEUED_TOKENS_MAX} prompt tokens; a lone request may have more`, async () => {
    const { client } = await open({ maxModelLen: 2 * QUEUED_TOKENS_MAX });
    const submit = (id: string, count: number) => {
      const reader = client
        .submit(request(id, {}, new Array<number>(count).fill(40)))
        [Symbol.asyncIterator]();
      const next = reader.next();
      next.catch(() => {});
      return { next, reader };
    };
    const half = QUEUED_TOKENS_MAX / 2;
    const first = submit("first", half);
    submit("second", half);
    const error = await rejection(submit("one more", 1).next);
    expect(error).toBeInstanceOf(QueueFullError);
    expect(error.message).toContain(`at most ${QUEUED_TOKENS_MAX} prompt tokens`);
    await client.close();
    await rejection(first.next);

    const { client: other } = await open({ maxModelLen: 2 * QUEUED_TOKENS_MAX });
    const long = new Array<number>(QUEUED_TOKENS_MAX + 1).fill(40);
    const lone = other.submit(request("long", {}, long)).next();
    expect(await rejection(other.submit(request("small")).next())).toBeInstanceOf(QueueFullError);
    await other.close();
    expect(await rejection(lone)).toBeInstanceOf(EngineDeadError);
  });
});

describe("several answers", () => {
  const n = 3;

  test("each become text of their own, and the request ends with the last of them", async () => {
    const { client, thread, say } = await open();
    const events = Array.fromAsync(client.submit(request("a", { n })));
    await settled();
    for (const id of [40, 41]) for (const choice of [2, 0, 1]) say("a", [id + 10 * choice], choice);
    for (const choice of [1, 0, 2]) thread.say({ type: "finish", id: "a", choice, reason: "length" });
    const all = await events;
    for (const choice of [0, 1, 2]) {
      const own = all.filter((event) => event.type !== "prompt" && event.choice === choice);
      const ids = own.flatMap((event) => (event.type === "text" ? event.tokenIds : []));
      expect(ids).toEqual([40 + 10 * choice, 41 + 10 * choice]);
      const text = own.map((event) => (event.type === "text" ? event.text : "")).join("");
      expect(text).toBe(client.text.decode(ids));
      const usage = { promptTokens: 1, completionTokens: 2 };
      expect(own.at(-1)).toEqual({ type: "finish", choice, reason: "length", ...usage });
    }
    expect(thread.sentOf("a")).toEqual([]);
  });

  test("a stop string ends one of them: that one is cancelled, what still comes of it dropped", async () => {
    const { client, thread, say } = await open();
    const stop = client.text.decode([60]);
    const events = Array.fromAsync(client.submit(request("a", { n: 2, stop: [stop] })));
    await settled();
    say("a", [40, 60, 41, 42], 1);
    await settled();
    expect(thread.sentOf("a")).toEqual([{ type: "cancel", id: "a", choice: 1 }]);
    say("a", [43], 0);
    thread.say({ type: "finish", id: "a", choice: 0, reason: "stop" });
    const all = await events;
    const ended = all.filter((event) => event.type === "finish");
    expect(ended).toMatchObject([
      { choice: 1, reason: "stop", completionTokens: 2 },
      { choice: 0, reason: "stop", completionTokens: 1 },
    ]);
    expect(all.filter((event) => event.type !== "prompt" && event.choice === 1).at(-1)).toBe(ended[0]);
    expect(thread.sentOf("a").length).toBe(1);
  });

  test("leaving before the last has ended cancels them all", async () => {
    const { client, thread } = await open();
    const reader = client.submit(request("a", { n: 2 }))[Symbol.asyncIterator]();
    const next = reader.next();
    await settled();
    thread.say({ type: "finish", id: "a", choice: 0, reason: "length" });
    expect((await next).value).toMatchObject({ type: "finish", choice: 0 });
    await reader.return(undefined);
    expect(thread.sentOf("a")).toEqual([{ type: "cancel", id: "a" }]);
  });

  test("log-probabilities stay with their ids", async () => {
    const { client, thread } = await open();
    const events = Array.fromAsync(client.submit(request("a", { logprobs: 0 })));
    await settled();
    const logprobs = [40, 41].map((id) => ({ chosen: { id, logprob: -1, rank: 1 }, top: [] }));
    thread.say({ type: "tokens", id: "a", choice: 0, ids: [40, 41], logprobs });
    thread.say({ type: "finish", id: "a", choice: 0, reason: "length" });
    expect((await events)[0]).toMatchObject({ type: "text", tokenIds: [40, 41], logprobs });
  });
});
