/** The playground without a browser: what is served, to whom, and how the view of the engine begins and ends. */
import { readdirSync } from "node:fs";
import { describe, expect, test } from "bun:test";
import type { EngineStats } from "../../src/engine/client.ts";
import { EngineDeadError } from "../../src/engine/errors.ts";
import { LIVE_INTERVAL_MS } from "../../src/limits.ts";
import { createApp } from "../../src/routes/app.ts";
import { ServerLife } from "../../src/routes/life.ts";
import { idleStats, ScriptedClient } from "../support/scripted-client.ts";
import { project } from "../support/shared.ts";
import { ManualTimers, setUp, until } from "./support.ts";

const folder = project("src/routes/playground/page");

describe("the page", () => {
  const files = readdirSync(folder).filter((name) => /\.(css|js|svg)$/.test(name));

  test("is served whole, and nothing else is", async () => {
    const { app } = setUp();
    expect(files.length).toBeGreaterThan(5);
    for (const path of ["/", ...files.map((name) => `/playground/${name}`)]) {
      const response = await app.request(path);
      expect([path, response.status]).toEqual([path, 200]);
      expect(response.headers.get("content-type")).toMatch(/^(text\/(html|css|javascript)|image\/svg\+xml)/);
    }
    for (const name of ["tsconfig.json", "page.ts", "..%2Fpage.ts", "nowhere.js"]) {
      expect((await app.request(`/playground/${name}`)).status).toBe(404);
    }
  });

  test("asks nobody else for anything, and has no markup made of text", async () => {
    const { app } = setUp();
    const response = await app.request("/");
    const policy = response.headers.get("content-security-policy") ?? "";
    expect(policy).toMatch(/^default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'/);
    expect(policy).toContain("require-trusted-types-for 'script'");
    expect(policy).not.toContain("unsafe");
    for (const path of ["/", ...files.map((name) => `/playground/${name}`)]) {
      const text = await (await app.request(path)).text();
      expect(text).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|\bstyle="|\bon\w+="/);
      expect(text.replaceAll("http://www.w3.org/2000/svg", "")).not.toMatch(/https?:\/\/|\burl\(|@import/);
    }
  });

  test("is there for everybody and in every state; what it shows is not", async () => {
    const life = new ServerLife();
    const services = { clock: () => 0, newId: () => "id", randomSeed: () => 1n };
    const loading = createApp({ ...services, engine: life });
    const closed = createApp({ ...services, engine: new ScriptedClient(), access: { apiKeys: ["key"] } });
    for (const app of [loading, closed]) {
      expect((await app.request("/")).status).toBe(200);
      expect((await app.request("/playground/main.js")).status).toBe(200);
    }
    expect([(await loading.request("/live")).status, (await closed.request("/live")).status]).toEqual([
      503, 401,
    ]);
  });
});

/** An engine that counts how often it is asked for its numbers. */
class AskedEngine extends ScriptedClient {
  askedCount = 0;
  override stats(): Promise<EngineStats> {
    this.askedCount++;
    return super.stats();
  }
}

const step = {
  index: 7,
  submitMs: 100,
  doneMs: 112,
  rectangles: [
    { sequence: "a", kind: "decode" as const, tokens: [12, 13] as const, passes: [0, 12] as const },
    { sequence: "b", kind: "decode" as const, tokens: [40, 41] as const, passes: [0, 12] as const },
    { sequence: "c", kind: "layered" as const, tokens: [0, 64] as const, passes: [3, 4] as const },
  ],
};

describe("the view of the engine", () => {
  function watch() {
    let nowMs = 0;
    const engine = new AskedEngine();
    engine.engineStats = { ...idleStats, running: 3, recentSteps: [step] };
    const life = ServerLife.of(engine);
    const timers = new ManualTimers();
    const app = createApp({
      engine: life,
      clock: () => nowMs,
      newId: () => "id",
      randomSeed: () => 1n,
      // Pings have a timer too, which never fires here.
      startTimer: (delayMs, callback) =>
        delayMs === LIVE_INTERVAL_MS ? timers.start(delayMs, callback) : () => {},
    });
    /** An interval later. */
    const tick = () => {
      nowMs += LIVE_INTERVAL_MS;
      timers.fireAll();
    };
    return { engine, life, app, timers, tick };
  }

  test("tells numbers and steps, each step once; decodes of a step together", async () => {
    const { app, tick, timers } = watch();
    const events = eventsOf(await app.request("/live"));
    expect(await events.next()).toMatchObject({
      running: 3,
      kvBlocks: idleStats.kvBlocks,
      steps: [
        {
          index: 7,
          ms: 12,
          rectangles: [
            { kind: "decode", passes: [0, 12], sequences: 2, tokenCount: 2 },
            { kind: "layered", passes: [3, 4], sequences: 1, tokenCount: 64 },
          ],
        },
      ],
    });
    await until(() => timers.count > 0);
    tick();
    expect(await events.next()).toMatchObject({ running: 3, steps: [] });
    await events.leave();
  });

  test("computes nothing when nobody watches, and once for all who do", async () => {
    const { app, engine, tick, timers } = watch();
    tick();
    expect(engine.askedCount).toBe(0);
    const watchers = [eventsOf(await app.request("/live")), eventsOf(await app.request("/live"))];
    for (const events of watchers) await events.next();
    expect(engine.askedCount).toBe(1);
    await until(() => timers.count >= 2);
    tick();
    for (const events of watchers) await events.next();
    expect(engine.askedCount).toBe(2);
    for (const events of watchers) await events.leave();
    expect(timers.count).toBe(0);
    tick();
    expect(engine.askedCount).toBe(2);
  });

  test("ends when the server is to stop, which it does not hold up", async () => {
    const { app, life, tick, timers } = watch();
    const events = eventsOf(await app.request("/live"));
    await events.next();
    await until(() => timers.count > 0);
    const drained = life.drain();
    tick();
    expect(await events.next()).toBe("[DONE]");
    expect(await events.next()).toBeNull();
    await drained;
  });

  test("tells of an engine that has died", async () => {
    const { app, engine } = watch();
    engine.stats = () => Promise.reject(new EngineDeadError("Cannot tell: the engine is gone"));
    const events = eventsOf(await app.request("/live"));
    expect(await events.next()).toMatchObject({ error: { message: "Cannot tell: the engine is gone" } });
    expect(await events.next()).toBe("[DONE]");
  });
});

/** The frames of a stream as they come: objects, its end as text, and null behind that. */
function eventsOf(response: Response) {
  expect(response.headers.get("content-type")).toMatch(/^text\/event-stream/);
  const reader = response.body!.getReader();
  const next = async (): Promise<unknown> => {
    const { done, value } = await reader.read();
    if (done) return null;
    const text = new TextDecoder().decode(value).slice("data: ".length).trim();
    return text === "[DONE]" ? text : JSON.parse(text);
  };
  return { next, leave: () => reader.cancel() };
}
