/** The client over the real engine in its Worker, and over a scripted Worker for what a real one does not do on cue. */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { GenerationEvent, GenerationRequest, SamplingParams } from "../../src/engine/client.ts";
import {
  CheckpointError,
  ContextLengthError,
  DeadlineError,
  EngineDeadError,
  InvalidRequestError,
  QueueFullError,
  SetupError,
} from "../../src/engine/errors.ts";
import { defaultEngineOptions, type EngineOptions } from "../../src/engine/load-engine.ts";
import type { ToEngine } from "../../src/engine/protocol.ts";
import { type StartOptions, WorkerEngineClient } from "../../src/engine/worker-client.ts";
import { QUEUED_REQUESTS_MAX } from "../../src/limits.ts";
import { withTempDir } from "../support/checkpoint.ts";
import { rejection } from "../support/rejection.ts";
import { project, shared } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const stories = shared("models/tinystories-656k");
const tinyHrm = project("models/hrm-text-tiny");

/** Messages that went to the thread. */
type Sent = ToEngine[];

function observed(url: URL, sent: Sent): () => Worker {
  return () => {
    const worker = new Worker(url, { type: "module" });
    const post = worker.postMessage.bind(worker);
    worker.postMessage = (message: ToEngine) => {
      sent.push(message);
      post(message);
    };
    return worker;
  };
}

function startOptions(modelDir: string, changes: Partial<EngineOptions> = {}): StartOptions {
  const gpu = (process.env.PRELUDE_GPU ?? "software") as EngineOptions["gpu"];
  const engine = { ...defaultEngineOptions, modelDir, gpu, gpuChecks: true, maxModelLen: 48, ...changes };
  return { engine, modelName: "stories", created: 1_700_000_000 };
}

const realWorker = new URL("../../src/engine/worker.ts", import.meta.url);
const scriptedWorker = new URL("../support/scripted-worker.ts", import.meta.url);

function startScripted(sent: Sent = [], modelDir = tinyHrm): Promise<WorkerEngineClient> {
  return WorkerEngineClient.start({
    ...startOptions(modelDir),
    createWorker: observed(scriptedWorker, sent),
  });
}

const greedy: SamplingParams = {
  maxTokens: 8,
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0n,
  stop: [],
};

interface Golden {
  cases: { prompt_ids: number[]; greedy_ids: number[] }[];
}

const [golden] = (JSON.parse(readFileSync(join(stories, "golden.json"), "utf8")) as Golden).cases;
const promptIds = golden.prompt_ids;
const expectedIds = golden.greedy_ids.slice(0, 8);

let requestCount = 0;

function request(changes: Partial<GenerationRequest> = {}, sampling: Partial<SamplingParams> = {}) {
  return { id: `request ${++requestCount}`, promptIds, sampling: { ...greedy, ...sampling }, ...changes };
}

function first(client: WorkerEngineClient, of: GenerationRequest, signal?: AbortSignal): Promise<unknown> {
  return client.submit(of, signal).next();
}

function idsOf(events: readonly GenerationEvent[]): number[] {
  return events.flatMap((event) => (event.type === "text" ? event.tokenIds : []));
}

describe("over the real engine", () => {
  const sent: Sent = [];
  const make = observed(realWorker, sent);
  let worker: Worker | undefined;
  const starting = WorkerEngineClient.start({
    ...startOptions(stories),
    createWorker: () => (worker = make()),
  });
  afterAll(async () => (await starting).close());

  async function expectGoldenAnswer(): Promise<void> {
    const client = await starting;
    const events = await Array.fromAsync(client.submit(request()));
    expect(idsOf(events)).toEqual(expectedIds);
    const usage = { promptTokens: promptIds.length, completionTokens: 8 };
    expect(events.at(-1)).toMatchObject({ type: "finish", choice: 0, reason: "length", ...usage });
  }

  test("says what it serves", async () => {
    const { model, adapter, healthy } = await starting;
    expect(model).toMatchObject({
      id: "stories",
      created: 1_700_000_000,
      maxModelLen: 48,
      isPrefixLm: false,
    });
    expect(adapter).toContain("through");
    expect(healthy).toBe(true);
  });

  test("generates", expectGoldenAnswer);

  test("counts what it does", async () => {
    const client = await starting;
    const before = await client.stats();
    await expectGoldenAnswer();
    const after = await client.stats();
    expect(after.promptTokens - before.promptTokens).toBe(promptIds.length);
    expect(after.generationTokens - before.generationTokens).toBe(8);
    expect(after.steps).toBeGreaterThan(before.steps);
    expect(after.recentSteps.at(-1)?.doneMs).toBeGreaterThan(before.recentSteps.at(-1)?.doneMs ?? Infinity);
    expect(after).toMatchObject({ running: 0, waiting: 0, preemptions: 0, kernels: null });
  });

  test.each<[string, Partial<GenerationRequest>, typeof InvalidRequestError, string, string]>([
    ["an empty prompt", { promptIds: [] }, InvalidRequestError, "prompt", "Cannot run an empty prompt"],
    [
      "a prompt that leaves no room",
      { promptIds: Array.from({ length: 48 }, () => 5) },
      ContextLengthError,
      "prompt",
      "Cannot run a prompt of 48 tokens: the context is 48 tokens",
    ],
    ["an unknown id", { promptIds: [1, 2048] }, InvalidRequestError, "prompt", "Cannot run token id 2048"],
    ["a negative id", { promptIds: [-1] }, InvalidRequestError, "prompt", "Cannot run token id -1"],
    ["half an id", { promptIds: [1.5] }, InvalidRequestError, "prompt", "Cannot run token id 1.5"],
    [
      "a prefix on a causal model",
      { prefixLength: 1 },
      InvalidRequestError,
      "prefix_len",
      "Cannot use a prefix of 1 tokens: expected 0 for a causal model",
    ],
  ])("refuses %s", async (_name, changes, kind, param, message) => {
    const count = sent.length;
    const error = await rejection(first(await starting, request(changes)));
    expect(error).toBeInstanceOf(kind);
    expect((error as InvalidRequestError).param).toBe(param);
    expect(error.message).toContain(message);
    expect(sent.length).toBe(count);
  });

  test("cuts an answer to the context", async () => {
    const ids = Array.from({ length: 46 }, (_, index) => promptIds[index % promptIds.length]);
    const events = await Array.fromAsync(
      (await starting).submit(request({ promptIds: ids }, { maxTokens: 99 })),
    );
    expect(events.at(-1)).toMatchObject({
      type: "finish",
      choice: 0,
      reason: "length",
      promptTokens: 46,
      completionTokens: 2,
    });
  });

  test("one request too many is refused at once, and the queue drains when the others are aborted", async () => {
    const client = await starting;
    const abort = new AbortController();
    const waiting = Array.from({ length: QUEUED_REQUESTS_MAX }, () =>
      rejection(Array.fromAsync(client.submit(request({}, { maxTokens: 40 }), abort.signal))),
    );
    const error = await rejection(first(client, request()));
    expect(error).toBeInstanceOf(QueueFullError);
    expect((error as QueueFullError).retryAfterSeconds).toBe(1);
    expect(error.message).toContain(`at most ${QUEUED_REQUESTS_MAX} requests may be under way`);
    abort.abort(new Error("enough"));
    expect(new Set((await Promise.all(waiting)).map(({ message }) => message))).toEqual(new Set(["enough"]));
    await expectGoldenAnswer();
  });

  test("aborted before the start, nothing is sent", async () => {
    const count = sent.length;
    const error = await rejection(first(await starting, request(), AbortSignal.abort(new Error("gone"))));
    expect(error.message).toBe("gone");
    expect(sent.length).toBe(count);
  });

  test("aborted in the middle, it ends with the reason, and is cancelled", async () => {
    const abort = new AbortController();
    const running = request({}, { maxTokens: 40 });
    const events: GenerationEvent[] = [];
    const run = async () => {
      for await (const event of (await starting).submit(running, abort.signal)) {
        events.push(event);
        if (events.length === 2) abort.abort(new Error("gone"));
      }
    };
    expect((await rejection(run())).message).toBe("gone");
    expect(events.length).toBe(2);
    expect(sent.at(-1)).toEqual({ type: "cancel", id: running.id });
    await expectGoldenAnswer();
  });

  test("leaving the loop cancels, and the next answer is right", async () => {
    for (const leaveAfter of [1, 2, 3]) {
      const running = request({}, { maxTokens: 40 });
      let count = 0;
      for await (const { type } of (await starting).submit(running)) {
        expect(type).toBe(count === 0 ? "prompt" : "text");
        if (++count === leaveAfter) break;
      }
      expect(sent.at(-1)).toEqual({ type: "cancel", id: running.id });
      await expectGoldenAnswer();
    }
  });

  test("a stop string ends and cancels; a finished answer is not cancelled", async () => {
    const client = await starting;
    const stop = client.text.decode(expectedIds.slice(3, 4));
    const stopped = request({}, { maxTokens: 40, stop: [stop] });
    const events = await Array.fromAsync(client.submit(stopped));
    expect(events.at(-1)).toMatchObject({ type: "finish", reason: "stop", stop });
    expect(sent.at(-1)).toEqual({ type: "cancel", id: stopped.id, choice: 0 });
    const text = events.map((event) => (event.type === "text" ? event.text : "")).join("");
    expect(text).not.toContain(stop);
    await expectGoldenAnswer();
    expect(sent.at(-1)?.type).toBe("submit");
  });

  test("an end says which id of the request's own it was, and nothing of the model's", async () => {
    const client = await starting;
    const end = expectedIds[3];
    const named = await Array.fromAsync(client.submit(request({}, { maxTokens: 40, stopTokenIds: [end] })));
    expect(named.at(-1)).toMatchObject({ type: "finish", reason: "stop", stop: end });
    const limited = await Array.fromAsync(client.submit(request({}, { maxTokens: 2, stopTokenIds: [end] })));
    expect(limited.at(-1)).not.toHaveProperty("stop");
  });

  test("requests at the same time each get their own answer", async () => {
    const client = await starting;
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => Array.fromAsync(client.submit(request()))),
    );
    for (const events of answers) expect(idsOf(events)).toEqual(expectedIds);
  });

  test("several answers come with their own ids, and log-probabilities with each", async () => {
    const events = await Array.fromAsync((await starting).submit(request({}, { n: 3, logprobs: 2 })));
    for (const choice of [0, 1, 2]) {
      const own = events.filter((event) => event.type !== "prompt" && event.choice === choice);
      expect(idsOf(own)).toEqual(expectedIds);
      expect(own.at(-1)).toMatchObject({ type: "finish", reason: "length", completionTokens: 8 });
      const logprobs = own.flatMap((event) => (event.type === "text" ? (event.logprobs ?? []) : []));
      expect(logprobs.map(({ chosen }) => chosen.id)).toEqual(expectedIds);
      expect(logprobs.map(({ top }) => top.map(({ id }) => id)[0])).toEqual(expectedIds);
    }
    expect(sent.at(-1)?.type).toBe("submit");
  });

  test("more answers than run at once, and a deadline that has passed, are errors of their kinds", async () => {
    const client = await starting;
    const many = await rejection(first(client, request({}, { n: client.model.maxChoices + 1 })));
    expect(many).toBeInstanceOf(InvalidRequestError);
    expect(await rejection(first(client, request({ deadlineMs: 1 })))).toBeInstanceOf(DeadlineError);
    await expectGoldenAnswer();
  });

  // The last one: nothing runs after it.
  test("what the thread chokes on ends it: for who waits and who comes later", async () => {
    const client = await starting;
    const pending = rejection(Array.fromAsync(client.submit(request({}, { maxTokens: 40 }))));
    worker?.postMessage({ type: "submit" });
    expect(await pending).toBeInstanceOf(EngineDeadError);
    expect(client.healthy).toBe(false);
    expect(await rejection(first(client, request()))).toBeInstanceOf(EngineDeadError);
  });
});

describe("over a scripted thread", () => {
  test("a Prefix LM takes a prefix of up to the whole prompt", async () => {
    const sent: Sent = [];
    const client = await startScripted(sent);
    for (const prefixLength of [0, 3, 6, undefined]) {
      await Array.fromAsync(client.submit(request({ prefixLength, promptIds: [1, 2, 3, 4, 5, 6] })));
      const submitted = sent.at(-1) as Extract<ToEngine, { type: "submit" }>;
      expect(submitted.request.prefixLength).toBe(prefixLength as number);
    }
    for (const prefixLength of [7, -1, 1.5]) {
      const error = await rejection(first(client, request({ prefixLength, promptIds: [1, 2, 3, 4, 5, 6] })));
      expect(error).toBeInstanceOf(InvalidRequestError);
      expect(error.message).toContain(`a prefix of ${prefixLength} tokens: expected 0 to 6`);
    }
    await client.close();
  });

  test("a failed request fails alone", async () => {
    const client = await startScripted();
    const error = await rejection(first(client, request({ id: "fail" })));
    expect([error.name, error.message]).toEqual(["RangeError", "failed on purpose"]);
    const events = await Array.fromAsync(client.submit(request({ promptIds: [40, 41] })));
    expect(idsOf(events)).toEqual([40, 41]);
    expect(client.healthy).toBe(true);
    await client.close();
  });

  test("a thread that throws is dead, for who waits and who comes later; closing it still works", async () => {
    const client = await startScripted();
    const silent = rejection(first(client, request({ id: "silent" })));
    const thrower = rejection(first(client, request({ id: "throw" })));
    for (const error of [await silent, await thrower]) {
      expect(error).toBeInstanceOf(EngineDeadError);
      expect(error.message).toContain("thrown on purpose");
    }
    expect(client.healthy).toBe(false);
    expect(await rejection(first(client, request()))).toBeInstanceOf(EngineDeadError);
    await client.close();
  });

  test("closing fails who waits and who comes later, and may be asked for again", async () => {
    const client = await startScripted();
    const silent = rejection(first(client, request({ id: "silent" })));
    await Promise.all([client.close(), client.close()]);
    await client.close();
    expect(await silent).toBeInstanceOf(EngineDeadError);
    expect(client.healthy).toBe(false);
    const later = await rejection(first(client, request()));
    expect(later.message).toBe("Cannot generate: the engine has ended (it was closed)");
  });
});

describe("start", () => {
  test("a missing folder is a CheckpointError", async () => {
    await withTempDir(async (dir) => {
      const error = await rejection(WorkerEngineClient.start(startOptions(join(dir, "nothing"))));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toContain(join(dir, "nothing"));
    });
  });

  test("damaged weights are a CheckpointError, also from the thread", async () => {
    await withTempDir(async (dir) => {
      cpSync(stories, dir, { recursive: true });
      const file = join(dir, "model.safetensors");
      const bytes = readFileSync(file);
      writeFileSync(`${file}.new`, bytes.subarray(0, bytes.length - 1000));
      cpSync(`${file}.new`, file, { force: true });
      const error = await rejection(WorkerEngineClient.start(startOptions(dir)));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toContain("model.safetensors");
    });
  });

  test("what the machine or the flags do not allow is a SetupError", async () => {
    const options = startOptions(stories, { maxModelLen: 1_000_000 });
    const error = await rejection(WorkerEngineClient.start(options));
    expect(error).toBeInstanceOf(SetupError);
    expect(error.message).toContain("--max-model-len 1000000");
  });

  test("a thread that throws while it loads", async () => {
    await withTempDir(async (dir) => {
      const folder = join(dir, "throw");
      cpSync(tinyHrm, folder, { recursive: true, filter: (path) => !path.endsWith(".safetensors") });
      const error = await rejection(startScripted([], folder));
      expect(error.message).toMatch(/^Cannot start the engine's thread: [^]*thrown while loading/);
    });
  });
});
