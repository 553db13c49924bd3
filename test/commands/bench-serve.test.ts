/** The whole tool against this project's own routes over a scripted engine, through a socket. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { benchServe, type BenchServeOptions } from "../../src/commands/bench-serve.ts";
import type { Environment } from "../../src/commands/environment.ts";
import { QueueFullError } from "../../src/engine/errors.ts";
import { SetupError } from "../../src/errors.ts";
import { createApp } from "../../src/routes/app.ts";
import { listen } from "../../src/routes/server.ts";
import { rejection } from "../support/rejection.ts";
import { sayThenFinish, sayThenThrow, sayThenWait, ScriptedClient } from "../support/scripted-client.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

async function serve(engine = new ScriptedClient(sayThenFinish(["ab", "c"], "length"))) {
  const app = createApp({ engine, clock: () => 0, newId: () => "1", randomSeed: () => 1n });
  const server = await listen(app, { host: "127.0.0.1", port: 0 });
  cleanUps.push(() => server.close());
  return { engine, url: server.url };
}

/** What a command sees of a world whose clock goes on by 1 ms with every look, and whose sleepers do not sleep. */
class TestWorld implements Environment {
  readonly written: string[] = [];
  readonly reported: string[] = [];
  readonly slept: number[] = [];
  readonly isInteractive = false;
  onReport: (line: string) => void = () => {};
  stop: () => void = () => {};
  #nowMs = 0;
  readonly clock = () => this.#nowMs++;
  readonly sleep = async (delayMs: number) => {
    this.slept.push(delayMs);
    this.#nowMs += delayMs;
  };
  readonly newId = () => "id";
  readonly randomSeed = () => 1n;
  readonly write = (text: string) => void this.written.push(text);
  readonly report = (line: string) => {
    this.reported.push(line);
    this.onReport(line);
  };
  readonly onStop = (stop: () => void) => void (this.stop = stop);
}

const workload = {
  promptCount: 20,
  warmupCount: 1,
  seed: 0,
  format: "ids",
  vocabSize: 100,
  inputLength: 8,
  outputLength: 3,
  prefixLength: 2,
  rangeRatio: 0,
} as const;

function options(url: string, rest: Partial<BenchServeOptions> = {}): BenchServeOptions {
  return {
    url,
    model: null,
    endpoint: "completions",
    workload,
    requestRate: Infinity,
    burstiness: 1,
    concurrencyMax: Infinity,
    ignoreEos: false,
    objectives: {},
    percentages: [99],
    ...rest,
  };
}

describe("a load", () => {
  test("is sent, measured and printed", async () => {
    const { engine, url } = await serve();
    const world = new TestWorld();
    const folder = mkdtempSync(join(tmpdir(), "bench-"));
    cleanUps.push(() => rmSync(folder, { recursive: true }));
    const json = join(folder, "result.json");
    const metrics = await benchServe(options(url, { json, temperature: 0.25 }), world);
    expect(metrics).toMatchObject({ completed: 20, failed: 0, inputTokens: 200, outputTokens: 60 });

    const requests = engine.submissions.map(({ request }) => request);
    expect(requests.length).toBe(21);
    expect(requests.every(({ sampling }) => sampling.maxTokens === 3 && sampling.temperature === 0.25)).toBe(
      true,
    );
    const prefixes = requests.map(({ promptIds }) => promptIds.slice(0, 2).join());
    expect(new Set(prefixes.slice(1)).size).toBe(1);
    expect(requests.every(({ promptIds }) => promptIds.length === 10)).toBe(true);

    expect(world.written.join("")).toContain("Successful requests:                     20\n");
    expect(world.reported).toContain("Requests: 2 of 20");
    expect(world.reported.at(-1)).toBe("Requests: 20 of 20");
    const written = JSON.parse(readFileSync(json, "utf8")) as { model_id: string; ttfts: number[] };
    expect([written.model_id, written.ttfts.length]).toEqual(["scripted", 20]);
    expect(written.ttfts.every((seconds) => seconds > 0)).toBe(true);
  });

  test("with a rate waits for each arrival", async () => {
    const { url } = await serve();
    const world = new TestWorld();
    await benchServe(options(url, { requestRate: 100, burstiness: Infinity }), world);
    expect(world.slept.length).toBeGreaterThan(0);
    expect(world.slept.every((delayMs) => delayMs <= 10)).toBe(true);
  });

  test("of chats is text, counted by the server", async () => {
    const { engine, url } = await serve(
      new ScriptedClient(sayThenFinish(["a"], "stop"), { maxModelLen: 512 }),
    );
    const chat = options(url, { endpoint: "chat", workload: { ...workload, format: "text" } });
    const metrics = await benchServe(chat, new TestWorld());
    expect(metrics).toMatchObject({ completed: 20, outputTokens: 20 });
    const sent = engine.submissions.slice(1).map(({ request }) => request.promptIds.length);
    expect(metrics?.inputTokens).toBe(sent.reduce((sum, length) => sum + length, 0));
  });

  test("counts failures and shows why", async () => {
    let calls = 0;
    const answer = sayThenFinish(["a"], "stop");
    const refuse = sayThenThrow([], new QueueFullError("Cannot queue: full", 1));
    const { url } = await serve(
      new ScriptedClient((...request) => (++calls % 2 === 1 ? answer : refuse)(...request)),
    );
    const world = new TestWorld();
    const metrics = await benchServe(options(url), world);
    expect(metrics).toMatchObject({ completed: 10, failed: 10 });
    expect(world.reported).toContain("  10 x HTTP 429: Cannot queue: full");
  });
});

describe("a stop", () => {
  test("prints what was measured until then", async () => {
    let calls = 0;
    const answer = sayThenFinish(["a"], "stop");
    const hang = sayThenWait("a");
    const { url } = await serve(
      new ScriptedClient((...request) => (++calls <= 4 ? answer : hang)(...request)),
    );
    const world = new TestWorld();
    world.onReport = (line) => {
      if (line.startsWith("Requests: 2 of")) world.stop();
    };
    const metrics = await benchServe(options(url, { concurrencyMax: 2 }), world);
    expect(metrics?.completed).toBeGreaterThanOrEqual(2);
    expect(metrics?.completed).toBeLessThanOrEqual(3);
    expect(metrics?.failed).toBe(0);
    expect(world.written.join("")).toContain(
      `Cancelled or not sent:                   ${20 - metrics!.completed}`,
    );
  });

  test("before the load began measures nothing", async () => {
    const world = new TestWorld();
    const { url } = await serve(
      new ScriptedClient((request, signal) => {
        world.stop();
        return sayThenWait("a")(request, signal);
      }),
    );
    expect(await benchServe(options(url), world)).toBeNull();
    expect(world.written).toEqual([]);
  });
});

describe("a SetupError", () => {
  const failure = async (rest: Partial<BenchServeOptions>, url?: string) => {
    const { engine, url: served } = await serve();
    const error = await rejection(benchServe(options(url ?? served, rest), new TestWorld()));
    expect(error).toBeInstanceOf(SetupError);
    return { message: error.message, count: engine.submissions.length };
  };

  test("names the parameter that the server refuses, before any load", async () => {
    const { message, count } = await failure({ temperature: 1000 });
    expect(message).toContain(
      "Cannot run a load test: expected an answer to a first request, got HTTP 400: refuses the parameter temperature",
    );
    expect(count).toBe(0);
  });

  test("says that prompts and answers do not fit the context", async () => {
    const { message, count } = await failure({ workload: { ...workload, inputLength: 60 } });
    expect(message).toBe(
      "Cannot run a load test: expected at most 64 tokens of prompt and answer, the context of scripted, got up to 65",
    );
    expect(count).toBe(0);
  });

  test("refuses to aim anywhere but at this machine", async () => {
    const { message } = await failure({}, "http://192.0.2.1:8000");
    expect(message).toContain(
      'expected a server on this machine (localhost, 127.0.0.1 or [::1]), got "192.0.2.1"',
    );
  });

  test("says that the results cannot be written, before any load", async () => {
    const { message, count } = await failure({ json: "/no/such/folder/result.json" });
    expect(message).toContain("Cannot write the results: expected a folder");
    expect(count).toBe(0);
  });

  test("says that there is no such model", async () => {
    const { message } = await failure({ model: "other" });
    expect(message).toBe("Cannot run a load test: expected the server to have other, got scripted");
  });
});
