/** Tools and thoughts over HTTP: what the template is given, and what of the model's text becomes calls and reasoning. */
import { describe, expect, test } from "bun:test";
import type { ChatFormat, ChatMessage, ChatTemplateOptions } from "../../src/engine/client.ts";
import { TOOLS_MAX } from "../../src/limits.ts";
import { defaultChatSettings } from "../../src/routes/services.ts";
import { say, sayThenFinish, type Script, ScriptedClient } from "../support/scripted-client.ts";
import { chat, chunksOf, type ErrorJson, setUp } from "./support.ts";

interface Encoded {
  messages: readonly ChatMessage[];
  options: ChatTemplateOptions;
}

/** A model that writes as `format` says, and what its template was given. */
function model(script: Script, format: Partial<ChatFormat> = {}, promptEnd = "") {
  const encoded: Encoded[] = [];
  const engine = new ScriptedClient(script, { maxModelLen: 4096, maxChoices: 4 });
  engine.text = {
    ...engine.text,
    chatFormat: () => ({ toolCalls: "hermes", thinks: false, ...format }),
    encodeChat: (messages, options = {}) => {
      encoded.push({ messages, options });
      return engine.text.encodePrompt(`${messages.map(({ content }) => content).join(";")}${promptEnd}`);
    },
  };
  return { engine, encoded };
}

const schema = { type: "object", properties: { city: { type: "string" } } };
const weather = {
  type: "function",
  function: { name: "weather", description: "of a city", parameters: schema },
};
const question = { role: "user", content: "Paris?" };
const body = { messages: [question], tools: [weather] };
const paris = '{"city": "Paris"}';
const call = `<tool_call>\n{"name": "weather", "arguments": ${paris}}\n</tool_call>`;

async function answer(engine: ScriptedClient, request: object): Promise<WholeChoice> {
  const response = await setUp(engine).post(chat, request);
  if (response.status !== 200) throw new Error(await response.text());
  const { choices, usage } = (await response.json()) as { choices: WholeChoice[]; usage: object };
  return { ...choices[0], usage };
}

interface WholeChoice {
  message: object;
  finish_reason: string;
  logprobs: { content: { token: string }[] } | null;
  usage: object;
}

/** Deltas of a stream, and its reasons. */
async function deltas(
  engine: ScriptedClient,
  request: object,
): Promise<{ deltas: object[]; reasons: string[] }> {
  const response = await setUp(engine).post(chat, { ...request, stream: true });
  const chunks = (await chunksOf(response)) as {
    choices: { delta: object; finish_reason: string | null }[];
  }[];
  const choices = chunks.flatMap((chunk) => chunk.choices);
  const reasons = choices.flatMap(({ finish_reason }) => finish_reason ?? []);
  return { deltas: choices.map(({ delta }) => delta), reasons };
}

async function refusedParam(request: object, engine?: ScriptedClient): Promise<string | null> {
  const { post, engine: used } = setUp(engine);
  const response = await post(chat, { messages: [question], ...request });
  expect([response.status, used.submissions]).toEqual([400, []]);
  return ((await response.json()) as ErrorJson).error.param;
}

describe("calls", () => {
  const toolCall = { id: "call_3", type: "function", function: { name: "weather", arguments: paris } };

  test("whole", async () => {
    const { message, finish_reason } = await answer(model(say(...call)).engine, body);
    expect(message).toEqual({ role: "assistant", content: null, refusal: null, tool_calls: [toolCall] });
    expect(finish_reason).toBe("tool_calls");
  });

  test("behind text", async () => {
    const { message } = await answer(model(say("I look.\n", call)).engine, body);
    expect(message).toMatchObject({ content: "I look.", tool_calls: [toolCall] });
  });

  test("streamed: the name, then arguments as they come", async () => {
    const pieces = [
      "<tool",
      '_call>{"name": "wea',
      'ther", "arguments": ',
      '{"city',
      '": "Paris"}',
      "}</tool_call>",
    ];
    const streamed = await deltas(model(say("Hm. ", ...pieces)).engine, body);
    const piece = (text: string) => ({ tool_calls: [{ index: 0, function: { arguments: text } }] });
    expect(streamed).toEqual({
      deltas: [
        { role: "assistant", content: "" },
        { content: "Hm." },
        {
          tool_calls: [
            { index: 0, id: "call_3", type: "function", function: { name: "weather", arguments: "" } },
          ],
        },
        piece('{"city'),
        piece('": "Paris"}'),
        {},
      ],
      reasons: ["tool_calls"],
    });
  });

  test("several, each with an id and an index of its own, unless they must come one by one", async () => {
    const script = say(call, "\n", call);
    const { message } = await answer(model(script).engine, body);
    expect(message).toMatchObject({ tool_calls: [{ id: "call_3" }, { id: "call_4" }] });
    const streamed = await deltas(model(script).engine, body);
    expect(JSON.stringify(streamed.deltas.at(-2))).toContain('"index":1');
    const single = await answer(model(script).engine, { ...body, parallel_tool_calls: false });
    expect(single.message).toMatchObject({ tool_calls: [toolCall] });
    expect(JSON.stringify(single.message)).not.toContain("call_4");
  });

  test("one that is cut off ends for length", async () => {
    const { message, finish_reason } = await answer(
      model(sayThenFinish([call.slice(0, 60)], "length")).engine,
      body,
    );
    expect(finish_reason).toBe("length");
    expect(message).toMatchObject({ tool_calls: [{ function: { name: "weather" } }] });
  });

  test("one that is none is text, and the end is an ordinary one", async () => {
    const text = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>';
    const { message, finish_reason } = await answer(model(say(...text)).engine, body);
    expect([message, finish_reason]).toEqual([{ role: "assistant", content: text, refusal: null }, "stop"]);
  });

  test.each([
    ["no tools", { messages: [question] }],
    ["tool_choice none", { ...body, tool_choice: "none" }],
  ])("%s: what looks like a call is text, and the template sees no tools", async (_name, request) => {
    const { engine, encoded } = model(say(call));
    expect((await answer(engine, request)).message).toEqual({
      role: "assistant",
      content: call,
      refusal: null,
    });
    expect(encoded[0].options.tools).toEqual([]);
  });

  test("by the template's style, or the one that the server was told", async () => {
    const bare = `{"name": "weather", "parameters": ${paris}}`;
    const llama = model(say(bare), { toolCalls: "llama3-json" });
    expect((await answer(llama.engine, body)).message).toMatchObject({ tool_calls: [toolCall] });
    expect((await answer(model(say(bare)).engine, body)).message).toMatchObject({ content: bare });
    const told = setUp(model(say(bare)).engine, { ...defaultChatSettings, toolCallParser: "llama3-json" });
    expect(await (await told.post(chat, body)).json()).toMatchObject({
      choices: [{ message: { tool_calls: [toolCall] } }],
    });
  });

  test("each answer of several has its own", async () => {
    const { engine } = model(async function* (request, signal) {
      for await (const event of say(call)(request, signal)) yield event;
      for await (const event of say("Sunny.")(request, signal)) yield { ...event, choice: 1 };
    });
    const response = await setUp(engine).post(chat, { ...body, n: 2 });
    expect(await response.json()).toMatchObject({
      choices: [
        { message: { tool_calls: [toolCall] }, finish_reason: "tool_calls" },
        { message: { content: "Sunny." }, finish_reason: "stop" },
      ],
    });
  });
});

describe("a call that must be made", () => {
  test.each(["required", { type: "function", function: { name: "weather" } }])("%j", async (tool_choice) => {
    const { engine, encoded } = model(say(call));
    const { message, finish_reason } = await answer(engine, { ...body, tool_choice });
    expect([finish_reason, message]).toMatchObject(["tool_calls", { tool_calls: [{}] }]);
    const { grammar } = engine.submissions[0].request.sampling;
    expect(grammar).toMatchObject({ type: "structural-tag", param: "tools" });
    expect(encoded[0].options.tools).toEqual([weather.function]);
  });

  test("comes behind thoughts that the prompt began", async () => {
    const { engine } = model(say(`Hm.</think>${call}`), { thinks: true }, "<think>\n");
    const { message } = await answer(engine, { ...body, tool_choice: "required" });
    expect(message).toMatchObject({ reasoning: "Hm.", content: null, tool_calls: [{}] });
    expect(engine.submissions[0].request.sampling.grammar).toMatchObject({
      tag: { format: { type: "sequence", elements: [{ begin: "", end: "</think>" }, {}, {}] } },
    });
  });
});

describe("what the template is given", () => {
  test("tools, calls, results, thoughts", async () => {
    const { engine, encoded } = model(say("Sunny."));
    const calls = [{ id: "call_1", type: "function", function: { name: "weather", arguments: paris } }];
    const messages = [
      { role: "developer", content: "Be brief.", name: "me" },
      question,
      { role: "assistant", content: null, tool_calls: calls, reasoning_content: "Hm." },
      { role: "tool", tool_call_id: "call_1", content: [{ type: "text", text: "sunny" }] },
    ];
    await answer(engine, { ...body, messages });
    const { messages: given, options } = encoded[0];
    expect(given).toMatchObject([
      { role: "system", content: "Be brief.", name: "me" },
      { role: "user", content: "Paris?" },
      {
        role: "assistant",
        content: "",
        reasoning: "Hm.",
        toolCalls: [{ id: "call_1", name: "weather", arguments: paris }],
      },
      { role: "tool", content: "sunny", toolCallId: "call_1" },
    ]);
    expect(options).toMatchObject({ tools: [weather.function], addGenerationPrompt: true });
  });

  test.each([
    [{ chat_template_kwargs: { a: 1 } }, { templateKwargs: { a: 1 } }],
    [{ reasoning_effort: "none" }, { templateKwargs: { enable_thinking: false, thinking: false } }],
    [
      { reasoning_effort: "low", chat_template_kwargs: { thinking: 0 } },
      { templateKwargs: { enable_thinking: true, thinking: 0, reasoning_effort: "low" } },
    ],
    [{ add_generation_prompt: false }, { addGenerationPrompt: false }],
    [{ continue_final_message: true }, { addGenerationPrompt: false, continueFinalMessage: true }],
    [{ continue_final_message: true, add_generation_prompt: false }, { continueFinalMessage: true }],
  ])("%j", async (request, expected) => {
    const { engine, encoded } = model(say("a"));
    await answer(engine, { messages: [question, { role: "assistant", content: "It" }], ...request });
    expect(encoded[0].options).toMatchObject(expected);
  });

  test("a message to continue is no part of the prefix", async () => {
    const { engine } = model(say(" is."));
    await answer(engine, {
      messages: [question, { role: "assistant", content: "It" }],
      continue_final_message: true,
    });
    const { promptIds, prefixLength } = engine.submissions[0].request;
    expect([promptIds.length, prefixLength]).toEqual(["Paris?;It".length, "Paris?".length]);
  });

  test("its own template, if the server trusts requests", async () => {
    const { engine, encoded } = model(say("a"));
    const request = { messages: [question], chat_template: "{{ messages }}" };
    expect(await refusedParam(request, engine)).toBe("chat_template");
    const trusting = setUp(engine, { ...defaultChatSettings, trustRequestTemplates: true });
    expect((await trusting.post(chat, request)).status).toBe(200);
    expect(encoded[0].options.chatTemplate).toBe("{{ messages }}");
  });
});

describe("thoughts", () => {
  const thinking = say("<thi", "nk>\nHm", ".\n</think>", "\n\nSunny.");

  test("whole", async () => {
    const { message, usage } = await answer(model(thinking, { thinks: true }).engine, {
      messages: [question],
    });
    expect(message).toEqual({
      role: "assistant",
      content: "Sunny.",
      refusal: null,
      reasoning_content: "Hm.",
      reasoning: "Hm.",
    });
    expect(usage).toMatchObject({
      completion_tokens: 28,
      completion_tokens_details: { reasoning_tokens: "<think>\nHm.\n</think>".length },
    });
  });

  test("streamed", async () => {
    const streamed = await deltas(model(thinking, { thinks: true }).engine, { messages: [question] });
    expect(streamed.deltas).toEqual([
      { role: "assistant", content: "" },
      { reasoning_content: "Hm", reasoning: "Hm" },
      { reasoning_content: ".", reasoning: "." },
      { content: "Sunny." },
      {},
    ]);
  });

  test("all at once", async () => {
    const { engine } = model(say("<think>Hm.</think>Sunny."), { thinks: true });
    const { message, usage } = await answer(engine, { messages: [question] });
    expect(message).toMatchObject({ content: "Sunny.", reasoning: "Hm." });
    expect(usage).toMatchObject({ completion_tokens_details: { reasoning_tokens: 24 } });
  });

  test("that the prompt begins", async () => {
    const { engine } = model(say("Hm.</think>Sunny."), { thinks: true }, "<think>\n");
    expect((await answer(engine, { messages: [question] })).message).toMatchObject({
      content: "Sunny.",
      reasoning: "Hm.",
    });
  });

  test("are not told if so asked, nor their tokens", async () => {
    const request = { messages: [question], include_reasoning: false };
    const { message, usage } = await answer(model(thinking, { thinks: true }).engine, request);
    expect(message).toEqual({ role: "assistant", content: "Sunny.", refusal: null });
    expect(usage).toMatchObject({ completion_tokens_details: { reasoning_tokens: 20 } });
  });

  test("come before calls, and a call in them is none", async () => {
    const { engine } = model(say(`<think>${call}</think>\n${call}`), { thinks: true });
    expect((await answer(engine, body)).message).toMatchObject({
      content: null,
      reasoning: call,
      tool_calls: [{}],
    });
  });

  test.each([
    ["a model that does not think", false, defaultChatSettings],
    ["a server that was told so", true, { ...defaultChatSettings, reasoningParser: "none" as const }],
  ])("%s: the marks are text", async (_name, thinks, settings) => {
    const { post } = setUp(model(say("<think>a</think>b"), { thinks }).engine, settings);
    const response = await post(chat, { messages: [question] });
    expect(await response.json()).toMatchObject({ choices: [{ message: { content: "<think>a</think>b" } }] });
  });
});

test("log-probabilities list every token once, whatever it became", async () => {
  const text = `<think>a</think>b${call}`;
  const { engine } = model(
    async function* ({ promptIds }) {
      for (const char of text) {
        const chosen = { id: char.charCodeAt(0), logprob: -1, rank: 1 };
        yield { type: "text", choice: 0, text: char, tokenIds: [chosen.id], logprobs: [{ chosen, top: [] }] };
      }
      yield {
        type: "finish",
        choice: 0,
        reason: "stop",
        promptTokens: promptIds.length,
        completionTokens: text.length,
      };
    },
    { thinks: true },
  );
  const { logprobs } = await answer(engine, { ...body, logprobs: true });
  expect(logprobs?.content.map(({ token }) => token).join("")).toBe(text);
});

describe("refused", () => {
  const named = (name: string) => ({ type: "function", function: { name } });
  test.each<[string, object]>([
    ["tools", { tools: [] }],
    ["tools", { tools: [weather, weather] }],
    ["tools[0].type", { tools: [{ type: "custom", custom: { name: "a" } }] }],
    ["tools[0].function.name", { tools: [named("a b")] }],
    ["tools[0].function.name", { tools: [named("")] }],
    [
      "tools[0].function.parameters",
      { tools: [{ type: "function", function: { name: "a", parameters: [] } }] },
    ],
    ["tools[0].function.other", { tools: [{ type: "function", function: { name: "a", other: 1 } }] }],
    ["tool_choice", { tool_choice: "auto" }],
    ["tool_choice", { tool_choice: "required" }],
    ["tool_choice", { tools: [weather], tool_choice: "any" }],
    ["tool_choice", { tools: [weather], tool_choice: named("other") }],
    ["parallel_tool_calls", { tools: [weather], parallel_tool_calls: 1 }],
    ["functions", { functions: [] }],
    ["reasoning_effort", { reasoning_effort: "extreme" }],
    ["chat_template_kwargs", { chat_template_kwargs: [] }],
    ["continue_final_message", { continue_final_message: true, add_generation_prompt: true }],
  ])("%s: %j", async (param, request) => {
    expect(await refusedParam(request)).toBe(param);
  });

  test("more tools than there may be", async () => {
    const tools = Array.from({ length: TOOLS_MAX + 1 }, (_, index) => named(`tool${index}`));
    expect(await refusedParam({ tools })).toBe("tools");
  });
});
