/** Tools, thoughts and parsing through OpenAI's own client. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import { zodFunction } from "openai/helpers/zod";
import { z } from "zod";
import { EngineDeadError } from "../../src/engine/errors.ts";
import { rejection } from "../support/rejection.ts";
import { aborted, sayThenThrow, sayThenWait } from "../support/scripted-client.ts";
import { parisWeather, type ScriptedServer, serveScripted, weatherScript } from "./client-support.ts";

let server: ScriptedServer;
let client: OpenAI;
beforeAll(async () => {
  server = await serveScripted();
  client = new OpenAI({ baseURL: server.baseURL, apiKey: "unused", maxRetries: 0 });
});
afterAll(() => server.close());

const weather = zodFunction({ name: "weather", parameters: z.object({ city: z.string() }) });
const body = {
  model: "scripted",
  messages: [{ role: "user" as const, content: "Paris?" }],
  tools: [weather],
};

describe("a call", () => {
  test("whole, parsed, with the thoughts before it", async () => {
    server.engine.script = weatherScript;
    const { choices, usage } = await client.chat.completions.parse(body);
    const [call] = choices[0].message.tool_calls ?? [];
    const parsed = { name: "weather", parsed_arguments: { city: "Paris" } };
    expect(call).toMatchObject({ type: "function", function: parsed });
    expect(call.id).toMatch(/^call_/);
    expect([choices[0].finish_reason, choices[0].message.content]).toEqual(["tool_calls", null]);
    expect(choices[0].message).toMatchObject({ reasoning_content: "Hm." });
    expect(usage?.completion_tokens_details?.reasoning_tokens).toBeGreaterThan(0);
  });

  test("streamed through the helper", async () => {
    server.engine.script = weatherScript;
    const runner = client.chat.completions.stream(body);
    const argumentsSeen: string[] = [];
    const contentSeen: string[] = [];
    runner.on("tool_calls.function.arguments.delta", (event) => argumentsSeen.push(event.arguments_delta));
    runner.on("content", (piece) => contentSeen.push(piece));
    const { choices } = await runner.finalChatCompletion();
    expect(argumentsSeen.length).toBeGreaterThan(2);
    expect(argumentsSeen.join("")).toBe(parisWeather);
    expect(contentSeen).toEqual([]);
    const parsed = { function: { parsed_arguments: { city: "Paris" } } };
    expect(choices[0].message.tool_calls).toMatchObject([parsed]);
    expect(choices[0].finish_reason).toBe("tool_calls");
  });

  test.each([false, true])("is run by the tool runner, whose answer goes back; stream %p", async (stream) => {
    server.engine.script = weatherScript;
    const asked: string[] = [];
    const tool = {
      type: "function" as const,
      function: {
        name: "weather",
        description: "of a city",
        parameters: { type: "object", properties: { city: { type: "string" } } },
        parse: (text: string) => JSON.parse(text) as { city: string },
        function: ({ city }: { city: string }) => {
          asked.push(city);
          return "sunny";
        },
      },
    };
    const runner = stream
      ? client.chat.completions.runTools({ ...body, tools: [tool], stream })
      : client.chat.completions.runTools({ ...body, tools: [tool] });
    expect(await runner.finalContent()).toBe("It is sunny.");
    expect(asked).toEqual(["Paris"]);
    const prompt = String.fromCharCode(...server.engine.submissions.at(-1)!.request.promptIds);
    expect(prompt.endsWith("tool:sunny;")).toBe(true);
  });

  test("a parsed message goes back as it is", async () => {
    server.engine.script = weatherScript;
    const { choices } = await client.chat.completions.parse(body);
    const { message } = choices[0];
    const tool_call_id = message.tool_calls?.[0].id ?? "";
    const messages = [...body.messages, message, { role: "tool" as const, tool_call_id, content: "sunny" }];
    const answer = await client.chat.completions.create({ ...body, messages });
    expect(answer.choices[0].message.content).toBe("It is sunny.");
  });
});

describe("in the middle of a call", () => {
  const begun = '<tool_call>{"name": "weather", "arguments": {"ci';

  test("an error is thrown, behind what there is of it", async () => {
    server.engine.script = sayThenThrow([begun], new EngineDeadError("dead"));
    const stream = await client.chat.completions.create({ ...body, stream: true });
    const seen: string[] = [];
    const reading = (async () => {
      for await (const { choices } of stream) seen.push(JSON.stringify(choices[0].delta.tool_calls ?? null));
    })();
    expect((await rejection(reading)).message).toBe("dead");
    expect(seen.at(-1)).toContain('"arguments":"{\\"ci"');
  });

  test("leaving ends the generation", async () => {
    server.engine.script = sayThenWait(begun);
    const stream = await client.chat.completions.create({ ...body, stream: true });
    for await (const { choices } of stream) if (choices[0].delta.tool_calls?.[0].function?.arguments) break;
    await aborted(server.engine.submissions.at(-1)!.signal);
  });
});

test("a choice without tools is refused by name", async () => {
  const request = { model: "scripted", messages: body.messages, tool_choice: "required" as const };
  const error = await client.chat.completions.create(request).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(OpenAI.BadRequestError);
  expect((error as InstanceType<typeof OpenAI.BadRequestError>).param).toBe("tool_choice");
});
