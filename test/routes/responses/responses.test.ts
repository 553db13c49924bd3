/** `/v1/responses` on the wire, over a scripted engine. */
import { describe, expect, test } from "bun:test";
import { EngineDeadError, QueueFullError } from "../../../src/engine/errors.ts";
import { say, sayThenFinish, sayThenThrow, ScriptedClient } from "../../support/scripted-client.ts";
import { type ErrorJson, namedEventsOf, refused, setUp, submitted } from "../support.ts";

const path = "/v1/responses";
const hi = { input: "hi" };
/** Of the prompt "user:hi;" and the answer "Hello world". */
const usage = {
  input_tokens: 8,
  input_tokens_details: { cached_tokens: 0 },
  output_tokens: 11,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: 19,
};
const part = { type: "output_text", text: "Hello world", annotations: [], logprobs: [] };
/** The input has the id before. */
const message = { id: "msg_4", type: "message", status: "completed", role: "assistant", content: [part] };

const whole = {
  id: "resp_2",
  object: "response",
  created_at: 1_700_000_123,
  completed_at: 1_700_000_123,
  status: "completed",
  model: "scripted",
  output: [message],
  usage,
  error: null,
  incomplete_details: null,
  previous_response_id: null,
  instructions: null,
  tools: [],
  tool_choice: "auto",
  parallel_tool_calls: true,
  text: { format: { type: "text" } },
  reasoning: { effort: null, summary: null },
  max_output_tokens: null,
  max_tool_calls: null,
  temperature: 0.5,
  top_p: 0.25,
  top_logprobs: 0,
  presence_penalty: 0,
  frequency_penalty: 0,
  truncation: "disabled",
  background: false,
  store: false,
  service_tier: "default",
  metadata: {},
  user: null,
  safety_identifier: null,
  prompt_cache_key: null,
};

describe("whole responses", () => {
  test("all of the object", async () => {
    expect(await (await setUp().post(path, hi)).json()).toEqual(whole);
  });

  test("an answer that ran out of tokens is incomplete, and so is its last item", async () => {
    const { post } = setUp(new ScriptedClient(sayThenFinish(["Hel"], "length")));
    expect(await (await post(path, { ...hi, max_output_tokens: 3 })).json()).toMatchObject({
      status: "incomplete",
      completed_at: null,
      incomplete_details: { reason: "max_output_tokens" },
      output: [{ status: "incomplete", content: [{ text: "Hel" }] }],
    });
  });

  test("what was asked for is what the engine is asked, and is repeated", async () => {
    const asked = {
      model: "scripted",
      instructions: "be brief",
      input: [{ role: "user", content: "hi" }],
      max_output_tokens: 7,
      temperature: 0,
      top_p: 0.5,
      top_k: 3,
      seed: 5,
      stop: ["x"],
      priority: 2,
    };
    const { promptIds, sampling, priority } = await submitted(path, asked);
    expect(String.fromCharCode(...promptIds)).toBe("system:be brief;user:hi;");
    expect(sampling).toMatchObject({
      maxTokens: 7,
      temperature: 0,
      topP: 0.5,
      topK: 3,
      seed: 5n,
      stop: ["x"],
    });
    expect([priority, sampling.logprobs]).toEqual([2, undefined]);
    const echo = { instructions: "be brief", max_output_tokens: 7, temperature: 0, top_p: 0.5 };
    expect(await (await setUp().post(path, asked)).json()).toMatchObject(echo);
  });

  test("a format is what the text must match", async () => {
    const grammarOf = async (format: object) => {
      return (await submitted(path, { ...hi, text: { format } })).sampling.grammar;
    };
    const param = "text.format";
    const schema = { type: "object" };
    expect(await grammarOf({ type: "text" })).toBeUndefined();
    expect(await grammarOf({ type: "json_object" })).toEqual({ type: "json-object", param });
    expect(await grammarOf({ type: "json_schema", name: "any", strict: true, schema })).toEqual({
      type: "json-schema",
      schema,
      param,
    });
  });

  test("log-probabilities, when included", async () => {
    const engine = new ScriptedClient(async function* ({ promptIds }) {
      const logprobs = [
        { chosen: { id: 97, logprob: -0.5, rank: 2 }, top: [{ id: 98, logprob: -1, rank: 1 }] },
      ];
      yield { type: "text", choice: 0, text: "a", tokenIds: [97], logprobs };
      yield {
        type: "finish",
        choice: 0,
        reason: "stop",
        promptTokens: promptIds.length,
        completionTokens: 1,
      };
    });
    const { post } = setUp(engine);
    const asked = { ...hi, include: ["message.output_text.logprobs"], top_logprobs: 1 };
    const logprobs = [
      { token: "a", logprob: -0.5, bytes: [97], top_logprobs: [{ token: "b", logprob: -1, bytes: [98] }] },
    ];
    expect(await (await post(path, asked)).json()).toMatchObject({ output: [{ content: [{ logprobs }] }] });
    expect(engine.submissions[0].request.sampling.logprobs).toBe(1);
    const { events } = await namedEventsOf(await post(path, { ...asked, stream: true }));
    for (const type of ["response.output_text.delta", "response.output_text.done"]) {
      expect(events.find((event) => event.type === type)).toMatchObject({ logprobs });
    }
  });
});

describe("streamed responses", () => {
  const begun = { ...whole, status: "in_progress", completed_at: null, output: [], usage: null };
  const at = { item_id: "msg_4", output_index: 0 };
  const inPart = { ...at, content_index: 0 };

  test("every event in order", async () => {
    const response = await setUp().post(path, { ...hi, stream: true });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const { events, end } = await namedEventsOf(response);
    expect(end).toBe("\n\ndata: [DONE]\n\n");
    const empty = { ...part, text: "" };
    expect(events).toEqual(
      [
        { type: "response.created", response: begun },
        { type: "response.in_progress", response: begun },
        {
          type: "response.output_item.added",
          output_index: 0,
          item: { ...message, status: "in_progress", content: [] },
        },
        { type: "response.content_part.added", ...inPart, part: empty },
        { type: "response.output_text.delta", ...inPart, delta: "Hello", logprobs: [] },
        { type: "response.output_text.delta", ...inPart, delta: " world", logprobs: [] },
        { type: "response.output_text.done", ...inPart, text: "Hello world", logprobs: [] },
        { type: "response.content_part.done", ...inPart, part },
        { type: "response.output_item.done", output_index: 0, item: message },
        { type: "response.completed", response: whole },
      ].map((event, sequence_number) => ({ ...event, sequence_number })),
    );
  });

  test("an incomplete one ends so", async () => {
    const { post } = setUp(new ScriptedClient(sayThenFinish(["Hel"], "length")));
    const { events } = await namedEventsOf(await post(path, { ...hi, stream: true }));
    expect(events.at(-1)).toMatchObject({ type: "response.incomplete", response: { status: "incomplete" } });
    expect(events.at(-2)).toMatchObject({
      type: "response.output_item.done",
      item: { status: "incomplete" },
    });
  });

  test("an error in mid-stream is told, and fails the response", async () => {
    const { post, log } = setUp(new ScriptedClient(sayThenThrow(["Hello"], new EngineDeadError("dead"))));
    const { events, end } = await namedEventsOf(await post(path, { ...hi, stream: true }));
    const error = { message: "dead", type: "server_error", param: null, code: "engine_unavailable" };
    expect(events.slice(-2)).toMatchObject([
      { type: "error", message: "dead", code: "engine_unavailable", error, sequence_number: 5 },
      {
        type: "response.failed",
        response: { status: "failed", error: { code: "engine_unavailable", message: "dead" } },
        sequence_number: 6,
      },
    ]);
    expect(end).toBe("\n\ndata: [DONE]\n\n");
    expect(log.map((entry) => entry.type)).toEqual(["request", "error"]);
  });

  test.each([true, false])("an error before any event has its status, stream %p", async (stream) => {
    const { post } = setUp(new ScriptedClient(sayThenThrow([], new QueueFullError("full", 1))));
    const response = await post(path, { ...hi, stream });
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "1"]);
    expect(((await response.json()) as ErrorJson).error.code).toBe("queue_full");
  });
});

describe("what is refused is named", () => {
  const look = { type: "function", name: "look", parameters: {} };
  test.each([
    ["nothing to answer", { input: [] }, "input"],
    ["background", { ...hi, background: true }, "background"],
    ["truncation", { ...hi, truncation: "auto" }, "truncation"],
    ["a conversation", { ...hi, conversation: "conv_1" }, "conversation"],
    ["a stored prompt", { ...hi, prompt: { id: "x" } }, "prompt"],
    ["chat's name of the limit", { ...hi, max_tokens: 1 }, "max_tokens"],
    ["several answers", { ...hi, n: 2 }, "n"],
    ["another tool", { ...hi, tools: [{ type: "web_search" }] }, "tools[0].type"],
    [
      "a tool's unknown field",
      { ...hi, tools: [{ ...look, defer_loading: true }] },
      "tools[0].defer_loading",
    ],
    ["a tool's bad name", { ...hi, tools: [{ ...look, name: "a b" }] }, "tools[0].name"],
    ["a tool of another kind", { ...hi, tools: [look], tool_choice: { type: "file_search" } }, "tool_choice"],
    ["another format", { ...hi, text: { format: { type: "grammar" } } }, "text.format.type"],
    ["verbosity", { ...hi, text: { verbosity: "low" } }, "text.verbosity"],
    ["encrypted reasoning", { ...hi, include: ["reasoning.encrypted_content"] }, "include[0]"],
    ["likely tokens without log-probabilities", { ...hi, top_logprobs: 2 }, "top_logprobs"],
    ["too large metadata", { ...hi, metadata: { a: "x".repeat(513) } }, "metadata.a"],
    ["a summary", { ...hi, reasoning: { summary: "concise" } }, "reasoning.summary"],
    [
      "obfuscation",
      { ...hi, stream: true, stream_options: { include_obfuscation: true } },
      "stream_options.include_obfuscation",
    ],
  ])("%s", async (_name, body, param) => {
    expect((await refused(path, body)).param).toBe(param);
  });
});

describe("stored responses", () => {
  const keep = { ...hi, store: true, metadata: { topic: "greeting" } };

  test("are there to be read, listed and deleted", async () => {
    const { app, post } = setUp();
    const response: unknown = await (await post(path, keep)).json();
    expect(response).toEqual({
      ...whole,
      id: "resp_2",
      store: true,
      metadata: { topic: "greeting" },
    });
    expect(await (await app.request(`${path}/resp_2`)).json()).toEqual(response);
    const content = [{ type: "input_text", text: "hi" }];
    const items = {
      data: [{ id: "msg_3", type: "message", role: "user", content }],
      first_id: "msg_3",
      last_id: "msg_3",
    };
    expect(await (await app.request(`${path}/resp_2/input_items`)).json()).toEqual({
      object: "list",
      ...items,
      has_more: false,
    });
    const deleted = await app.request(`${path}/resp_2`, { method: "DELETE" });
    expect(await deleted.json()).toEqual({ id: "resp_2", object: "response", deleted: true });
    for (const method of ["GET", "DELETE"]) {
      const gone = await app.request(`${path}/resp_2`, { method });
      expect([gone.status, ((await gone.json()) as ErrorJson).error.code]).toEqual([
        404,
        "response_not_found",
      ]);
    }
  });

  test("nothing is kept unless asked for, nor what failed", async () => {
    const { app, post, engine } = setUp();
    await post(path, hi);
    await post(path, { ...hi, store: false });
    engine.script = sayThenThrow(["a"], new EngineDeadError("dead"));
    await post(path, keep);
    await namedEventsOf(await post(path, { ...keep, stream: true }));
    const ids = engine.submissions.map(({ request }) => request.id);
    expect(new Set(ids).size).toBe(4);
    for (const id of ids) expect((await app.request(`${path}/${id}`)).status).toBe(404);
  });

  test("a stream is kept before its last event", async () => {
    const { app, post } = setUp();
    const { events } = await namedEventsOf(await post(path, { ...keep, stream: true }));
    const { response } = events.at(-1) as unknown as { response: { id: string } };
    expect(await (await app.request(`${path}/${response.id}`)).json()).toEqual(response);
  });

  test("are what a later request goes on from, turn by turn, without their instructions", async () => {
    const { post, engine } = setUp(new ScriptedClient(say("Hello"), { maxModelLen: 1000 }));
    const next = async (body: object) => ((await (await post(path, body)).json()) as { id: string }).id;
    const first = await next({ ...keep, instructions: "be brief" });
    const second = await next({ input: "and?", previous_response_id: first, store: true });
    await next({ input: "so?", previous_response_id: second });
    expect(engine.text.decode(engine.submissions[2].request.promptIds)).toBe(
      "user:hi;assistant:Hello;user:and?;assistant:Hello;user:so?;",
    );
  });

  test("an item can be sent by its id", async () => {
    const { post, engine } = setUp();
    const { output } = (await (await post(path, keep)).json()) as { output: { id: string }[] };
    const reference = { type: "item_reference", id: output[0].id };
    await post(path, {
      input: [{ role: "user", content: "hi" }, reference, { role: "user", content: "so?" }],
    });
    expect(engine.text.decode(engine.submissions[1].request.promptIds)).toBe(
      "user:hi;assistant:Hello world;user:so?;",
    );
  });

  test("what is gone is said", async () => {
    const previous = await refused(path, { ...hi, previous_response_id: "resp_9" });
    expect([previous.param, previous.code]).toEqual(["previous_response_id", "previous_response_not_found"]);
    const item = await refused(path, { input: [{ type: "item_reference", id: "msg_9" }] });
    expect([item.param, item.message]).toEqual([
      "input[0].id",
      expect.stringContaining("store: true") as string,
    ]);
  });

  test("an assistant's string is listed as an answer", async () => {
    const { app, post } = setUp();
    const input = [
      { role: "user", content: "hi" },
      { role: "assistant", content: "Hello" },
    ];
    await post(path, { input, store: true });
    const { data } = (await (await app.request(`${path}/resp_2/input_items?limit=1`)).json()) as {
      data: object[];
    };
    expect(data).toMatchObject([{ role: "assistant", content: [{ type: "output_text", text: "Hello" }] }]);
  });

  test("input items in pages, either way", async () => {
    const { app, post } = setUp(new ScriptedClient(say("Hello"), { maxModelLen: 1000 }));
    const input = ["a", "b", "c"].map((content) => ({ id: `msg_${content}`, role: "user", content }));
    await post(path, { input, store: true });
    const page = async (query: string) => {
      const response = await app.request(`${path}/resp_2/input_items${query}`);
      const { data, has_more } = (await response.json()) as { data: { id: string }[]; has_more: boolean };
      return [...data.map(({ id }) => id.at(-1)), has_more];
    };
    expect(await page("")).toEqual(["c", "b", "a", false]);
    expect(await page("?order=asc&limit=2")).toEqual(["a", "b", true]);
    expect(await page("?order=asc&limit=2&after=msg_b")).toEqual(["c", false]);
    expect(await page("?limit=1&after=msg_c")).toEqual(["b", true]);
    for (const query of ["?limit=0", "?limit=x", "?order=up", "?after=msg_z", "?include=x"]) {
      expect((await app.request(`${path}/resp_2/input_items${query}`)).status).toBe(400);
    }
    expect((await app.request(`${path}/resp_2?stream=true`)).status).toBe(400);
  });

  test.each([
    ["GET", path, "POST"],
    ["POST", `${path}/resp_2`, "GET, DELETE"],
    ["DELETE", `${path}/resp_2/input_items`, "GET"],
  ])("%s %s is a 405", async (method, url, allowed) => {
    const response = await setUp().app.request(url, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, allowed]);
  });
});
