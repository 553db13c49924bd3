/** Anthropic's own client, unmodified, over a socket: what it accepts of `/v1/messages` is what counts. */
import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { EngineDeadError, QueueFullError } from "../../../src/engine/errors.ts";
import { listen, type Server } from "../../../src/routes/server.ts";
import { aborted, say, sayThenThrow, sayThenWait, ScriptedClient } from "../../support/scripted-client.ts";
import { setUp } from "../support.ts";

const engine = new ScriptedClient(undefined, { maxModelLen: 1000 });
const { app, log } = setUp(engine);
let server: Server;
let client: Anthropic;

beforeAll(async () => {
  server = await listen(app, { host: "127.0.0.1", port: 0 });
  client = new Anthropic({ baseURL: server.url, apiKey: "unused", maxRetries: 0 });
});
afterAll(() => server.close());

const messages = [{ role: "user" as const, content: "hi" }];
const hi = { model: "scripted", max_tokens: 100, messages };
const prompt = () => engine.text.decode(engine.submissions.at(-1)!.request.promptIds);
const input_schema = { type: "object" as const, properties: { at: { type: "string" } } };
const tools = [{ name: "look", description: "somewhere", input_schema }];
const called = ['I look.<tool_call>\n{"name":"look",', '"arguments":{"at":', '"sky"}}\n</tool_call>'];

describe("answers", () => {
  test("whole", async () => {
    engine.script = say("Hello", " world");
    const message = await client.messages.create({ ...hi, system: [{ type: "text", text: "be brief" }] });
    expect(message.content).toMatchObject([{ type: "text", text: "Hello world" }]);
    expect([message.stop_reason, message.usage.output_tokens]).toEqual(["end_turn", 11]);
    expect([message._request_id, prompt()]).toEqual([
      expect.stringMatching(/^req-/) as string,
      "system:be brief;user:hi;",
    ]);
  });

  test("streamed, event by event", async () => {
    engine.script = say("Hello", " world");
    const events = await Array.fromAsync(await client.messages.create({ ...hi, stream: true }));
    expect(events.map(({ type }) => type)).toEqual([
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop",
    ]);
  });

  test("the stream helper makes the message that comes whole", async () => {
    engine.script = say(...called);
    const stream = client.messages.stream({ ...hi, tools });
    const pieces: string[] = [];
    stream.on("inputJson", (piece) => pieces.push(piece));
    const { content, stop_reason, usage } = await stream.finalMessage();
    const whole = await client.messages.create({ ...hi, tools });
    expect(content).toMatchObject([
      { type: "text", text: "I look." },
      { type: "tool_use", name: "look", input: { at: "sky" } },
    ]);
    const withoutId = (blocks: Anthropic.ContentBlock[]) => blocks.map((block) => ({ ...block, id: null }));
    expect(withoutId(whole.content)).toEqual(withoutId(content));
    expect([stop_reason, usage.output_tokens]).toEqual([whole.stop_reason, whole.usage.output_tokens]);
    expect(pieces.filter((piece) => piece !== "").length).toBeGreaterThan(1);
  });

  test("the result of a call goes back", async () => {
    engine.script = say(...called);
    const { content } = await client.messages.create({ ...hi, tools });
    const use = content.find((block) => block.type === "tool_use")!;
    engine.script = say("Blue.");
    const answered = [
      ...messages,
      { role: "assistant" as const, content },
      {
        role: "user" as const,
        content: [
          { type: "tool_result" as const, tool_use_id: use.id, content: "blue", is_error: false },
          { type: "text" as const, text: "so?" },
        ],
      },
    ];
    const message = await client.messages.create({ ...hi, messages: answered, tools });
    expect(message.content).toMatchObject([{ text: "Blue." }]);
    expect(prompt()).toBe("user:hi;assistant:I look.;tool:blue;user:so?;");
  });

  test("thoughts are a block, which may be sent back", async () => {
    const { text } = engine;
    engine.text = { ...text, chatFormat: () => ({ toolCalls: "hermes", thinks: true }) };
    engine.script = say("<think>Hm", "m</think>", "Blue.");
    const asked = { ...hi, thinking: { type: "enabled" as const, budget_tokens: 1024 } };
    const { content } = await client.messages.stream(asked).finalMessage();
    expect(content).toMatchObject([
      { type: "thinking", thinking: "Hmm" },
      { type: "text", text: "Blue." },
    ]);
    const longer = [...messages, { role: "assistant" as const, content }, ...messages];
    await client.messages.create({ ...asked, messages: longer });
    engine.text = text;
    expect(prompt()).toBe("user:hi;assistant:Blue.;user:hi;");
  });

  test("tokens are counted", async () => {
    const counted = await client.messages.countTokens({
      model: "scripted",
      messages,
      system: "be brief",
      tools,
    });
    expect(counted).toEqual({ input_tokens: "system:be brief;user:hi;".length });
  });
});

describe("errors", () => {
  test.each([
    ["a full queue", new QueueFullError("full", 1), Anthropic.OverloadedError, "overloaded_error"],
    ["an unknown one", new Error("secret"), Anthropic.InternalServerError, "api_error"],
  ] as const)("%s before the answer has its class", async (_name, thrown, errorClass, type) => {
    engine.script = sayThenThrow([], thrown);
    for (const stream of [false, true]) {
      const error = await failure(client.messages.create({ ...hi, stream }));
      expect(error).toBeInstanceOf(errorClass);
      expect([error.type, error.requestID]).toEqual([type, expect.stringMatching(/^req-/) as string]);
    }
  });

  test("of the request are told by name", async () => {
    const bad = await failure(client.messages.create({ ...hi, container: "x" }));
    expect(bad).toBeInstanceOf(Anthropic.BadRequestError);
    expect([bad.type, bad.apiMessage]).toEqual([
      "invalid_request_error",
      'Cannot accept "container": expected supported parameters only, got an unknown one',
    ]);
    const other = await failure(client.messages.create({ ...hi, model: "other" }));
    expect(other).toBeInstanceOf(Anthropic.NotFoundError);
  });

  test("in mid-stream they are thrown", async () => {
    engine.script = sayThenThrow(["Hello"], new EngineDeadError("dead"));
    const thrown = await failure(Array.fromAsync(await client.messages.create({ ...hi, stream: true })));
    expect([thrown.type, thrown.apiMessage]).toEqual(["overloaded_error", "dead"]);
    expect((await failure(client.messages.stream(hi).finalMessage())).type).toBe("overloaded_error");
  });

  test("a full queue is tried again after the time it says", async () => {
    let attempts = 0;
    const full = sayThenThrow([], new QueueFullError("full", 0.001));
    engine.script = (request, signal) => (++attempts === 1 ? full : say("Hello"))(request, signal);
    await client.withOptions({ maxRetries: 1 }).messages.create(hi);
    expect(attempts).toBe(2);
  });

  test("leaving a stream aborts it, and is no failure", async () => {
    const before = log.filter(({ type }) => type === "error").length;
    engine.script = sayThenWait("Hello");
    const stream = client.messages.stream(hi);
    const left = failure(stream.finalMessage());
    for await (const event of stream) if (event.type === "content_block_delta") break;
    expect(await left).toBeInstanceOf(Anthropic.APIUserAbortError);
    await aborted(engine.submissions.at(-1)!.signal);
    expect(log.filter(({ type }) => type === "error")).toHaveLength(before);
  });
});

async function failure(promise: Promise<unknown>): Promise<InstanceType<typeof Anthropic.APIError>> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof Anthropic.APIError) return error;
  throw new Error(`expected an APIError, got ${String(error)}`);
}
