/** An app over a scripted engine with a fixed clock, counted ids, and a timer that fires when a test says so. */
import { expect } from "bun:test";
import type { GenerationRequest } from "../../src/engine/client.ts";
import { createApp } from "../../src/routes/app.ts";
import type { ChatSettings, LogEntry } from "../../src/routes/services.ts";
import { ScriptedClient } from "../support/scripted-client.ts";

export const chat = "/v1/chat/completions";
export const completions = "/v1/completions";
export const hello = { messages: [{ role: "user", content: "hi" }] };

export interface ErrorJson {
  error: { message: string; type: string; param: string | null; code: string | null };
}

export function setUp(engine = new ScriptedClient(), chat?: ChatSettings) {
  let idCount = 0;
  const log: LogEntry[] = [];
  const timers = new ManualTimers();
  const app = createApp({
    engine,
    ...(chat && { chat }),
    clock: () => 1_700_000_123_456,
    newId: () => String(++idCount),
    randomSeed: () => 99n,
    log: (entry) => void log.push(entry),
    startTimer: timers.start,
  });
  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    app.request(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  return { app, engine, log, timers, post };
}

/** The engine request that a body becomes. */
export async function submitted(
  path: string,
  body: object,
  engine?: ScriptedClient,
): Promise<GenerationRequest> {
  const set = setUp(engine);
  const response = await set.post(path, body);
  if (response.status !== 200) throw new Error(await response.text());
  return set.engine.submissions[0].request;
}

/** The error that a body gets; the engine must not have heard of it. */
export async function refused(
  path: string,
  body: object,
  engine?: ScriptedClient,
): Promise<ErrorJson["error"]> {
  const set = setUp(engine);
  const response = await set.post(path, body);
  expect(response.status).toBe(400);
  expect(set.engine.submissions).toEqual([]);
  const { error } = (await response.json()) as ErrorJson;
  expect(error.type).toBe("invalid_request_error");
  return error;
}

/** Timers that fire by hand. */
export class ManualTimers {
  readonly #callbacks = new Set<() => void>();
  readonly start = (_delayMs: number, callback: () => void): (() => void) => {
    this.#callbacks.add(callback);
    return () => void this.#callbacks.delete(callback);
  };
  get count(): number {
    return this.#callbacks.size;
  }
  fireAll(): void {
    for (const callback of this.#callbacks) callback();
  }
}

/** The objects of an event stream, whose frames must be whole and end with `[DONE]`, which is left out. */
export async function chunksOf(response: Response): Promise<unknown[]> {
  const frames = (await response.text()).split("\n\n");
  if (frames.pop() !== "") throw new Error("the stream does not end with a whole frame");
  if (frames.pop() !== "data: [DONE]") throw new Error("the stream does not end with [DONE]");
  return frames.map((frame) => JSON.parse(frame.slice("data: ".length)) as unknown);
}

/** Lets other work run until `condition` holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 0));
}

/** The objects of a stream whose events are named by their type; what follows the last is returned as `end`. */
export async function namedEventsOf(response: Response): Promise<{ events: NamedEvent[]; end: string }> {
  const text = await response.text();
  const frames = text.split("\n\n").filter((frame) => frame.startsWith("event: "));
  const events = frames.map((frame) => {
    const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(frame) ?? [];
    const event = JSON.parse(data) as NamedEvent;
    expect(event.type).toBe(name);
    return event;
  });
  return { events, end: text.slice(text.lastIndexOf(frames.at(-1) ?? "") + (frames.at(-1) ?? "").length) };
}

export type NamedEvent = Record<string, unknown> & { type: string };
