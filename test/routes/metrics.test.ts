/** What a scrape reads. Names are those of vLLM's documentation, with another prefix. */
import { describe, expect, test } from "bun:test";
import { createApp } from "../../src/routes/app.ts";
import {
  idleStats,
  sayThenThrow,
  sayThenWait,
  type Script,
  ScriptedClient,
} from "../support/scripted-client.ts";
import { chat, hello } from "./support.ts";

/** The clock goes on by as much as the script says, in milliseconds. */
function setUp(script?: Script) {
  const time = { nowMs: 0 };
  const engine = new ScriptedClient(script);
  let idCount = 0;
  const newId = () => String(++idCount);
  const app = createApp({ engine, clock: () => time.nowMs, newId, randomSeed: () => 1n });
  const ask = (body: object = hello) =>
    app.request(chat, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  /** Values by name and labels; the model's is left out. */
  const scrape = async (): Promise<Map<string, number>> => {
    const lines = (await (await app.request("/metrics")).text()).split("\n");
    const values = lines.filter((line) => line !== "" && !line.startsWith("#"));
    return new Map(
      values.map((line) => {
        const [, name, value] = /^(.+) (\S+)$/.exec(line)!;
        return [name.replace(/,?model_name="scripted"/, "").replace("{}", ""), Number(value)];
      }),
    );
  };
  return { app, engine, ask, scrape, time };
}

describe("the engine's numbers", () => {
  test("are those of the scrape, under vLLM's names", async () => {
    const { app, engine, scrape } = setUp();
    const stats = {
      ...idleStats,
      running: 3,
      waiting: 2,
      preemptions: 4,
      promptTokens: 100,
      generationTokens: 50,
      kvBlocks: [
        { used: 1, cached: 1, free: 2, total: 4 },
        { used: 3, cached: 0, free: 1, total: 4 },
      ],
      prefixCache: { queryTokens: 90, hitTokens: 30 },
      queueTimes: { secondsMax: [1, 10], counts: [1, 2, 3], sumSeconds: 25 },
    };
    engine.engineStats = stats;
    await scrape();
    expect(await (await app.request("/metrics")).text()).toContain(
      "# TYPE prelude:request_queue_time_seconds histogram",
    );
    engine.engineStats = { ...stats, generationTokens: 51 };
    expect(Object.fromEntries(await scrape())).toMatchObject({
      "prelude:num_requests_running": 3,
      "prelude:num_requests_waiting": 2,
      "prelude:kv_cache_usage_perc": 0.75,
      "prelude:num_preemptions_total": 4,
      "prelude:prompt_tokens_total": 100,
      "prelude:generation_tokens_total": 51,
      "prelude:prefix_cache_queries_total": 90,
      "prelude:prefix_cache_hits_total": 30,
      'prelude:request_queue_time_seconds_bucket{le="1"}': 1,
      'prelude:request_queue_time_seconds_bucket{le="10"}': 2,
      'prelude:request_queue_time_seconds_bucket{le="+Inf"}': 3,
      "prelude:request_queue_time_seconds_sum": 25,
      "prelude:request_queue_time_seconds_count": 3,
    });
  });

  test("kernels have theirs where they are timed", async () => {
    const { engine, scrape } = setUp();
    expect([...(await scrape()).keys()].filter((name) => name.includes("kernel"))).toEqual([]);
    const rates = { gigabytesPerSecond: 1, teraflopsPerSecond: 1 };
    engine.engineStats = {
      ...idleStats,
      kernels: [{ kernel: "attention", calls: 7, milliseconds: 1500, ...rates }],
    };
    const values = await scrape();
    expect(values.get('prelude:kernel_gpu_seconds_total{kernel="attention"}')).toBe(1.5);
    expect(values.get('prelude:kernel_calls_total{kernel="attention"}')).toBe(7);
  });
});

describe("times of answers", () => {
  test("to the first token, between tokens, of a token, of all", async () => {
    const { ask, scrape, time } = setUp(async function* () {
      for (const delayMs of [250, 100, 300]) {
        time.nowMs += delayMs;
        yield { type: "text", choice: 0, text: "x", tokenIds: [1] };
      }
      // Text that was held back has no tokens of its own.
      time.nowMs += 50;
      yield { type: "text", choice: 0, text: "x", tokenIds: [] };
      yield { type: "finish", choice: 0, reason: "length", promptTokens: 1, completionTokens: 3 };
    });
    await ask();
    const values = await scrape();
    const of = (name: string) => [values.get(`prelude:${name}_sum`), values.get(`prelude:${name}_count`)];
    expect(of("time_to_first_token_seconds")).toEqual([0.25, 1]);
    expect(of("inter_token_latency_seconds")).toEqual([0.4, 2]);
    expect(of("request_time_per_output_token_seconds")).toEqual([0.2, 1]);
    expect(of("e2e_request_latency_seconds")).toEqual([0.7, 1]);
    expect(values.get('prelude:request_success_total{finished_reason="length"}')).toBe(1);
  });

  test("how answers ended: by themselves, by a failure, by their client", async () => {
    const { engine, ask, scrape } = setUp();
    await ask();
    engine.script = sayThenThrow(["a"], new Error("broken"));
    await (await ask({ ...hello, stream: true })).text();
    engine.script = sayThenWait("a");
    const reader = (await ask({ ...hello, stream: true })).body!.getReader();
    await reader.read();
    await reader.cancel();
    const values = await scrape();
    for (const reason of ["stop", "error", "abort"]) {
      expect(values.get(`prelude:request_success_total{finished_reason="${reason}"}`)).toBe(1);
    }
  });
});

test("HTTP requests are counted by route, not by what clients make up", async () => {
  const { app, scrape } = setUp();
  await app.request("/v1/models/scripted");
  await app.request("/v1/models/other");
  await app.request("/made/up");
  await app.request("/made/up/too");
  await app.request("/health", { method: "PROPFIND" });
  const http = [...(await scrape())].filter(([name]) => name.includes("http_requests"));
  expect(http.sort().map(([name, value]) => [/\{(.*)\}/.exec(name)![1], value])).toEqual([
    ['handler="/health",method="other",status="405"', 1],
    ['handler="/v1/models/:name{.+}",method="GET",status="200"', 1],
    ['handler="/v1/models/:name{.+}",method="GET",status="404"', 1],
    ['handler="none",method="GET",status="404"', 2],
  ]);
});

test("two apps count apart", async () => {
  const [first, second] = [setUp(), setUp()];
  await first.ask();
  expect([...(await second.scrape()).keys()].some((name) => name.includes("request_success"))).toBe(false);
});
