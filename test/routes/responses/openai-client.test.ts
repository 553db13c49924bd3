/** OpenAI's own client, unmodified, over a socket: what it accepts of `/v1/responses` is what counts. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import { EngineDeadError, QueueFullError } from "../../../src/engine/errors.ts";
import { listen, type Server } from "../../../src/routes/server.ts";
import {
  aborted,
  say,
  sayThenFinish,
  sayThenThrow,
  sayThenWait,
  ScriptedClient,
} from "../../support/scripted-client.ts";
import { setUp } from "../support.ts";

const engine = new ScriptedClient(undefined, { maxModelLen: 1000 });
const { app, log } = setUp(engine);
let server: Server;
let client: OpenAI;

beforeAll(async () => {
  server = await listen(app, { host: "127.0.0.1", port: 0 });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused", maxRetries: 0 });
});
afterAll(() => server.close());

const hi = { model: "scripted", input: "hi" };
/** The client's types know outputs that are no inputs, none of which are here. */
const asInput = (output: OpenAI.Responses.ResponseOutputItem[]) =>
  output as OpenAI.Responses.ResponseInputItem[];
const prompt = () => engine.text.decode(engine.submissions.at(-1)!.request.promptIds);
const parameters = { type: "object", properties: { at: { type: "string" } } };
const look = { type: "function" as const, name: "look", parameters, strict: false };
const called = ['I look.<tool_call>\n{"name":"look",', '"arguments":{"at":', '"sky"}}\n</tool_call>'];

describe("answers", () => {
  test("whole", async () => {
    engine.script = say("Hello", " world");
    const response = await client.responses.create(hi);
    expect([response.output_text, response.status, response._request_id]).toEqual([
      "Hello world",
      "completed",
      expect.stringMatching(/^req-/) as string,
    ]);
    expect(response.usage?.total_tokens).toBe(19);
  });

  test("an answer can be part of the next request, or be gone on from by id", async () => {
    engine.script = say("Hello");
    const first = await client.responses.create({ ...hi, store: true });
    const again = { role: "user" as const, content: "so?" };
    await client.responses.create({
      ...hi,
      input: [{ role: "user", content: "hi" }, ...asInput(first.output), again],
    });
    expect(prompt()).toBe("user:hi;assistant:Hello;user:so?;");
    await client.responses.create({ ...hi, input: "so?", previous_response_id: first.id });
    expect(prompt()).toBe("user:hi;assistant:Hello;user:so?;");
  });

  test("streamed, event by event", async () => {
    engine.script = say("Hello", " world");
    const events = await Array.fromAsync(await client.responses.create({ ...hi, stream: true }));
    const pieces = events.flatMap((event) =>
      event.type === "response.output_text.delta" ? [event.delta] : [],
    );
    expect(pieces).toEqual(["Hello", " world"]);
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, index) => index));
    expect(events.at(-1)?.type).toBe("response.completed");
  });

  test("the stream helper, with a call in pieces", async () => {
    engine.script = say(...called);
    const stream = client.responses.stream({ ...hi, tools: [look] });
    const snapshots: string[] = [];
    stream.on("response.function_call_arguments.delta", ({ snapshot }) => snapshots.push(snapshot));
    const { output, output_text, status } = await stream.finalResponse();
    expect([output_text, status, output.map(({ type }) => type)]).toEqual([
      "I look.",
      "completed",
      ["message", "function_call"],
    ]);
    expect(output[1]).toMatchObject({ name: "look", arguments: '{"at":"sky"}', parsed_arguments: null });
    expect(snapshots.at(-1)).toBe('{"at":"sky"}');
    expect(snapshots.length).toBeGreaterThan(1);
  });

  test("the result of a call goes back", async () => {
    engine.script = say(...called);
    const { output } = await client.responses.create({ ...hi, tools: [look] });
    const call = output.find((item) => item.type === "function_call")!;
    const result = { type: "function_call_output" as const, call_id: call.call_id, output: "blue" };
    engine.script = say("Blue.");
    const input = [{ role: "user" as const, content: "hi" }, ...asInput(output), result];
    const { output_text } = await client.responses.create({ ...hi, input, tools: [look] });
    expect([output_text, prompt()]).toEqual(["Blue.", "user:hi;assistant:I look.;tool:blue;"]);
  });

  test("thoughts are an item", async () => {
    const { text } = engine;
    engine.text = { ...text, chatFormat: () => ({ toolCalls: "hermes", thinks: true }) };
    engine.script = say("<think>Hm", "</think>", "Blue.");
    const stream = client.responses.stream({ ...hi, reasoning: { effort: "low" } });
    const { output, output_text } = await stream.finalResponse();
    engine.text = text;
    expect(output[0]).toMatchObject({ type: "reasoning", content: [{ type: "reasoning_text", text: "Hm" }] });
    expect(output_text).toBe("Blue.");
  });

  test("an answer that ran out of tokens is incomplete", async () => {
    engine.script = sayThenFinish(["Hel"], "length");
    const { status, incomplete_details } = await client.responses
      .stream({ ...hi, max_output_tokens: 3 })
      .finalResponse();
    expect([status, incomplete_details?.reason]).toEqual(["incomplete", "max_output_tokens"]);
  });
});

describe("what is stored", () => {
  test("is read, listed and deleted", async () => {
    engine.script = say("Hello");
    const { id, output_text } = await client.responses.create({ ...hi, store: true });
    expect((await client.responses.retrieve(id)).output_text).toBe(output_text);
    const items = await Array.fromAsync(client.responses.inputItems.list(id));
    expect(items).toMatchObject([{ role: "user", content: [{ type: "input_text", text: "hi" }] }]);
    await client.responses.delete(id);
    expect(await failure(client.responses.retrieve(id))).toBeInstanceOf(OpenAI.NotFoundError);
    const gone = await failure(client.responses.create({ ...hi, previous_response_id: id }));
    expect([gone.status, gone.code]).toEqual([400, "previous_response_not_found"]);
  });

  test("is listed through pages", async () => {
    const input = Array.from({ length: 25 }, (_, index) => ({
      role: "user" as const,
      content: String(index),
    }));
    const { id } = await client.responses.create({ ...hi, input, store: true });
    const items = await Array.fromAsync(client.responses.inputItems.list(id, { order: "asc", limit: 10 }));
    expect(items).toHaveLength(25);
    expect(new Set(items.map((item) => ("id" in item ? item.id : null))).size).toBe(25);
  });
});

describe("errors", () => {
  test.each([true, false])("before the answer they have a class, stream %p", async (stream) => {
    engine.script = sayThenThrow([], new QueueFullError("full", 1));
    expect(await failure(client.responses.create({ ...hi, stream }))).toBeInstanceOf(OpenAI.RateLimitError);
    const bad = await failure(client.responses.create({ ...hi, stream, background: true }));
    expect([bad.status, bad.param]).toEqual([400, "background"]);
  });

  test("in mid-stream they are thrown, by the helper too", async () => {
    engine.script = sayThenThrow(["Hello"], new EngineDeadError("dead"));
    const stream = await client.responses.create({ ...hi, stream: true });
    const thrown = await failure(Array.fromAsync(stream));
    expect([thrown.message, thrown.code]).toEqual(["dead", "engine_unavailable"]);
    const helped = await failure(client.responses.stream(hi).finalResponse());
    expect([helped.message, helped.code]).toEqual(["dead", "engine_unavailable"]);
  });

  test("leaving a stream aborts it, and is no failure", async () => {
    const before = log.filter(({ type }) => type === "error").length;
    engine.script = sayThenWait("Hello");
    const stream = await client.responses.create({ ...hi, stream: true });
    for await (const event of stream) if (event.type === "response.output_text.delta") break;
    await aborted(engine.submissions.at(-1)!.signal);
    expect(log.filter(({ type }) => type === "error")).toHaveLength(before);
  });
});

async function failure(promise: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof OpenAI.APIError) return error;
  throw new Error(`expected an APIError, got ${String(error)}`);
}
