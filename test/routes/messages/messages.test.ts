/** `/v1/messages` on the wire, over a scripted engine. */
import { describe, expect, test } from "bun:test";
import type { ChatMessage, ChatTemplateOptions, FinishReason } from "../../../src/engine/client.ts";
import {
  ContextLengthError,
  DeadlineError,
  EngineDeadError,
  InvalidRequestError,
  QueueFullError,
} from "../../../src/engine/errors.ts";
import {
  say,
  sayThenFinish,
  sayThenThrow,
  sayThenWait,
  ScriptedClient,
} from "../../support/scripted-client.ts";
import { namedEventsOf, setUp, submitted, until } from "../support.ts";

const path = "/v1/messages";
const hi = { model: "scripted", max_tokens: 20, messages: [{ role: "user", content: "hi" }] };
const tools = [{ name: "look", input_schema: { type: "object", properties: { at: { type: "string" } } } }];
const called = 'I look.<tool_call>\n{"name":"look","arguments":{"at":"sky"}}\n</tool_call>';

const usage = (output_tokens: number) => {
  return { input_tokens: 8, cache_creation_input_tokens: null, cache_read_input_tokens: null, output_tokens };
};
const empty = {
  id: "msg_2",
  type: "message",
  role: "assistant",
  model: "scripted",
  content: [],
  stop_reason: null,
  stop_sequence: null,
  usage: usage(0),
};

/** An engine whose only answer ends in the way given. */
function ending(reason: FinishReason, stop?: string | number, completionTokens = 5): ScriptedClient {
  return new ScriptedClient(async function* ({ promptIds }) {
    yield { type: "text", choice: 0, text: "Hello", tokenIds: [] };
    yield { type: "finish", choice: 0, reason, stop, promptTokens: promptIds.length, completionTokens };
  });
}

describe("whole messages", () => {
  test("all of the object", async () => {
    const response = await setUp().post(path, hi, { "anthropic-version": "2023-06-01" });
    expect(await response.json()).toEqual({
      ...empty,
      content: [{ type: "text", text: "Hello world", citations: null }],
      stop_reason: "end_turn",
      usage: usage(11),
    });
  });

  test.each([
    ["a stop sequence", ending("stop", "END"), "stop_sequence", "END"],
    ["the model's own end", ending("stop"), "end_turn", null],
    ["the limit", ending("length", undefined, 20), "max_tokens", null],
    ["the end of the context", ending("length", undefined, 5), "model_context_window_exceeded", null],
  ])("%s", async (_name, engine, stop_reason, stop_sequence) => {
    const response = await setUp(engine).post(path, hi);
    expect(await response.json()).toMatchObject({ stop_reason, stop_sequence });
  });

  test("what came from a cache is counted apart", async () => {
    const engine = new ScriptedClient(async function* ({ promptIds: { length: promptTokens } }) {
      const counts = { promptTokens, cachedTokens: 3, completionTokens: 1 };
      yield { type: "finish", choice: 0, reason: "stop", ...counts };
    });
    const { events } = await namedEventsOf(await setUp(engine).post(path, { ...hi, stream: true }));
    expect(events.at(-2)).toMatchObject({
      usage: { input_tokens: 5, cache_read_input_tokens: 3, output_tokens: 1 },
    });
  });

  test("a format is what the text must match", async () => {
    const schema = { type: "object" };
    const { sampling } = await submitted(path, {
      ...hi,
      output_config: { format: { type: "json_schema", schema } },
    });
    expect(sampling.grammar).toEqual({ type: "json-schema", schema, param: "output_config.format" });
  });

  test("a call has its input as an object", async () => {
    const engine = new ScriptedClient(say(called));
    const response = await setUp(engine).post(path, { ...hi, tools });
    const use = { type: "tool_use", id: "call_3", name: "look", input: { at: "sky" } };
    expect(await response.json()).toMatchObject({
      content: [{ type: "text", text: "I look." }, use],
      stop_reason: "tool_use",
    });
  });

  test("a call that was cut has none, and the reason says so", async () => {
    const engine = new ScriptedClient(sayThenFinish([called.slice(0, 60)], "length"));
    const response = await setUp(engine).post(path, { ...hi, max_tokens: 60, tools });
    expect(await response.json()).toMatchObject({
      content: [{ type: "text" }, { type: "tool_use", input: {} }],
      stop_reason: "max_tokens",
    });
  });

  test("what was asked for is what the engine is asked", async () => {
    const asked = { ...hi, system: "be brief", stop_sequences: ["x"], temperature: 0, top_p: 0.5, top_k: 3 };
    const { promptIds, sampling } = await submitted(path, asked);
    expect(String.fromCharCode(...promptIds)).toBe("system:be brief;user:hi;");
    expect(sampling).toMatchObject({ maxTokens: 20, temperature: 0, topP: 0.5, topK: 3, stop: ["x"] });
  });
});

describe("how the prompt is made", () => {
  /** What the template was asked for. */
  async function templateOf(body: object): Promise<ChatTemplateOptions> {
    const engine = new ScriptedClient();
    const seen: ChatTemplateOptions[] = [];
    const encodeChat = (messages: readonly ChatMessage[], options: ChatTemplateOptions = {}) => {
      seen.push(options);
      return engine.text.encodePrompt(JSON.stringify(messages.at(-1)?.role));
    };
    const response = await setUp(Object.assign(engine, { text: { ...engine.text, encodeChat } })).post(path, {
      ...hi,
      ...body,
    });
    expect(response.status).toBe(200);
    return seen[0];
  }

  test("tools, unless there is to be no call", async () => {
    const [{ name, input_schema: parameters }] = tools;
    expect((await templateOf({ tools })).tools).toEqual([{ name, parameters }]);
    expect((await templateOf({ tools, tool_choice: { type: "none" } })).tools).toEqual([]);
    expect((await templateOf({ tools: [] })).tools).toEqual([]);
  });

  test("thoughts only when asked for", async () => {
    expect((await templateOf({})).templateKwargs).toEqual({ enable_thinking: false, thinking: false });
    const thinking = { type: "enabled", budget_tokens: 1024 };
    expect((await templateOf({ thinking, output_config: { effort: "low" } })).templateKwargs).toEqual({
      enable_thinking: true,
      thinking: true,
      reasoning_effort: "low",
    });
  });

  test("an assistant's last message is gone on with", async () => {
    const messages = [...hi.messages, { role: "assistant", content: "Well," }];
    expect(await templateOf({ messages })).toMatchObject({
      continueFinalMessage: true,
      addGenerationPrompt: false,
    });
  });
});

describe("streamed messages", () => {
  test("every event in order, and nothing behind the last", async () => {
    const { events, end } = await namedEventsOf(await setUp().post(path, { ...hi, stream: true }));
    expect(end).toBe("\n\n");
    const delta = (text: string) => ({
      type: "content_block_delta",
      index: 0,
      delta: { type: "text_delta", text },
    });
    expect(events).toEqual([
      { type: "message_start", message: empty },
      { type: "content_block_start", index: 0, content_block: { type: "text", text: "", citations: null } },
      delta("Hello"),
      delta(" world"),
      { type: "content_block_stop", index: 0 },
      { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: usage(11) },
      { type: "message_stop" },
    ]);
  });

  test("thoughts and calls are blocks of their own", async () => {
    const engine = new ScriptedClient(say("<think>Hm</think>", ...called));
    engine.text = { ...engine.text, chatFormat: () => ({ toolCalls: "hermes", thinks: true }) };
    const { events } = await namedEventsOf(await setUp(engine).post(path, { ...hi, tools, stream: true }));
    const starts = events.filter(({ type }) => type === "content_block_start");
    expect(starts.map(({ content_block }) => content_block)).toMatchObject([
      { type: "thinking", thinking: "", signature: "" },
      { type: "text", text: "" },
      { type: "tool_use", name: "look", input: {} },
    ]);
    const deltas = events.filter(({ type, index }) => type === "content_block_delta" && index === 2);
    const pieces = deltas.map(({ delta }) => (delta as { partial_json: string }).partial_json);
    expect(JSON.parse(pieces.join(""))).toEqual({ at: "sky" });
    expect(events.at(-2)).toMatchObject({ delta: { stop_reason: "tool_use" } });
  });

  test("silence is filled with pings", async () => {
    const { post, timers } = setUp(new ScriptedClient(sayThenWait("Hello")));
    const reader = (await post(path, { ...hi, stream: true })).body!.getReader();
    for (let frame = 0; frame < 3; frame++) await reader.read();
    const ping = reader.read();
    await until(() => timers.count > 0);
    timers.fireAll();
    expect(new TextDecoder().decode((await ping).value)).toBe('event: ping\ndata: {"type":"ping"}\n\n');
    await reader.cancel();
  });

  test("an error in mid-stream is the last event", async () => {
    const { post } = setUp(new ScriptedClient(sayThenThrow(["Hello"], new EngineDeadError("dead"))));
    const { events, end } = await namedEventsOf(
      await post(path, { ...hi, stream: true }, { "x-request-id": "mine" }),
    );
    const error = { type: "overloaded_error", message: "dead" };
    expect([events.at(-1), end]).toEqual([{ type: "error", error, request_id: "mine" }, "\n\n"]);
  });
});

describe("errors have Anthropic's shape", () => {
  test.each([
    ["a bad request", new InvalidRequestError("no", "messages"), 400, "invalid_request_error"],
    ["a long prompt", new ContextLengthError("long"), 400, "invalid_request_error"],
    ["a deadline", new DeadlineError("late"), 408, "timeout_error"],
    ["a full queue", new QueueFullError("full", 1), 529, "overloaded_error"],
    ["a dead engine", new EngineDeadError("dead"), 529, "overloaded_error"],
    ["what is not known", new Error("secret"), 500, "api_error"],
  ])("%s", async (_name, thrown, status, type) => {
    for (const stream of [false, true]) {
      const { post } = setUp(new ScriptedClient(sayThenThrow([], thrown)));
      const response = await post(path, { ...hi, stream }, { "x-request-id": "mine" });
      expect(response.status).toBe(status);
      if (status === 529) expect(response.headers.get("retry-after")).toMatch(/^\d+$/);
      const body: unknown = await response.json();
      expect(body).toMatchObject({ type: "error", error: { type }, request_id: "mine" });
      expect(JSON.stringify(body)).not.toContain("secret");
    }
  });

  const use = { type: "tool_use", id: "1", name: "look", input: {} };
  test.each([
    ["no limit", { max_tokens: undefined }, 400, "max_tokens"],
    ["another model", { model: "other" }, 404, "other"],
    ["an unknown parameter", { container: "x" }, 400, "container"],
    ["OpenAI's name", { stop: ["x"] }, 400, "stop"],
    ["another tool", { tools: [{ type: "bash_20250124", name: "bash" }] }, 400, "tools[0].type"],
    ["a choice without tools", { tool_choice: { type: "any" } }, 400, "tool_choice"],
    [
      "a choice of a tool that is not there",
      { tools, tool_choice: { type: "tool", name: "jump" } },
      400,
      "jump",
    ],
    [
      "a call without its result",
      { messages: [...hi.messages, { role: "assistant", content: [use] }] },
      400,
      "messages",
    ],
    ["a broken body", null, 400, "body"],
  ])("%s", async (_name, changes, status, named) => {
    const { post, engine } = setUp();
    const response = await post(path, changes === null ? "{" : { ...hi, ...changes });
    const { error } = (await response.json()) as { error: { type: string; message: string } };
    expect(response.status).toBe(status);
    expect(error.type).toBe(status === 404 ? "not_found_error" : "invalid_request_error");
    expect(error.message).toContain(named);
    expect(engine.submissions).toEqual([]);
  });

  test.each([path, `${path}/count_tokens`])("GET %s is a 405", async (url) => {
    const response = await setUp().app.request(url);
    expect([response.status, response.headers.get("allow")]).toEqual([405, "POST"]);
    expect(await response.json()).toMatchObject({ type: "error", error: { type: "invalid_request_error" } });
  });
});

describe("counting tokens", () => {
  const { model, messages } = hi;
  const count = async (body: object) =>
    (await (await setUp().post(`${path}/count_tokens`, body)).json()) as unknown;

  test("is the length of the prompt, longer than the context or not", async () => {
    expect(await count({ model, messages })).toEqual({ input_tokens: usage(0).input_tokens });
    const long = [{ role: "user", content: "x".repeat(100) }];
    expect(await count({ model, messages: long, system: "s" })).toEqual({
      input_tokens: "system:s;user:;".length + 100,
    });
  });

  test("takes nothing that is of the answer", async () => {
    expect(await count({ ...hi })).toMatchObject({
      error: { message: expect.stringContaining("max_tokens") as string },
    });
  });
});
