/** Tools, thoughts and unfinished messages in chat templates: those that know of them, and those that do not. */
import { afterAll, describe, expect, test } from "bun:test";
import type { ChatMessage, ToolDefinition } from "../../../src/engine/client.ts";
import { InvalidRequestError } from "../../../src/engine/errors.ts";
import { createTextCodec } from "../../../src/engine/text/codec.ts";
import { project } from "../../support/shared.ts";
import { asciiTokenizer, codes, type Folder, writeFolder } from "./support.ts";

const folders: Folder[] = [];
afterAll(() => {
  for (const folder of folders) folder.remove();
});

/** A codec of the ASCII vocabulary and line breaks, with `<|end|>` (201) special and this chat template. */
function codecWith(template: string) {
  const added = [{ id: 201, content: "<|end|>", special: true }];
  const folder = writeFolder({
    "tokenizer.json": asciiTokenizer({ added, model: { vocab: asciiAndLineBreak() } }),
    "tokenizer_config.json": { chat_template: template },
  });
  folders.push(folder);
  return createTextCodec(folder.dir, "llama");
}

function asciiAndLineBreak(): Record<string, number> {
  const { model } = asciiTokenizer() as { model: { vocab: Record<string, number> } };
  return { ...model.vocab, "\n": 10 };
}

/** The text of ASCII ids. */
const read = (ids: readonly number[]) => String.fromCharCode(...ids);

const question: ChatMessage = { role: "user", content: "Paris?" };
const asked: ChatMessage = {
  role: "assistant",
  content: "",
  toolCalls: [{ id: "call_1", name: "weather", arguments: '{"city": "Paris"}' }],
};
const answered: ChatMessage = { role: "tool", content: "sunny", toolCallId: "call_1" };
const weather: ToolDefinition = {
  name: "weather",
  description: "of a city",
  parameters: { type: "object", properties: { city: { type: "string" } } },
};
const drafted = {
  ...weather,
  parameters: { ...weather.parameters, $schema: "http://json-schema.org/draft-07/schema#" },
};

describe("a template that knows tools", () => {
  test("gets them, calls and results in transformers' shapes", () => {
    const codec = codecWith(
      "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}" +
        "{% for m in messages %}[{{ m.role }} {{ m.content }}" +
        "{% if 'tool_calls' in m %}{% for c in m.tool_calls %}{{ c.id }} {{ c.function.name }} {{ c.function.arguments.city }}{% endfor %}{% endif %}" +
        "{% if m.tool_call_id %} {{ m.tool_call_id }}{% endif %}]{% endfor %}",
    );
    const tool =
      '{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}';
    expect(read(codec.encodeChat([question, asked, answered], { tools: [weather] }))).toBe(
      `${tool}[user Paris?][assistant call_1 weather Paris][tool sunny call_1]`,
    );
    expect(read(codec.encodeChat([question]))).toBe("[user Paris?]");
  });

  test("special tokens in tools, calls and thoughts are text", () => {
    const codec = codecWith(
      "{{ tools[0].function.description }}{{ messages[0].tool_calls[0].function.arguments.a }}{{ messages[0].reasoning_content }}<|end|>",
    );
    const spelled = "<|end|>";
    const message: ChatMessage = {
      role: "assistant",
      content: "",
      reasoning: spelled,
      toolCalls: [{ id: "1", name: "f", arguments: '{"a": "<|end|>"}' }],
    };
    const tools = [{ name: "f", description: spelled }];
    expect(codec.encodeChat([message], { tools })).toEqual([...codes(spelled.repeat(3)), 201]);
  });

  test("arguments that are no JSON stay text", () => {
    const codec = codecWith("{{ messages[0].tool_calls[0].function.arguments }}");
    const message: ChatMessage = { ...asked, toolCalls: [{ id: "1", name: "f", arguments: "{oops" }] };
    expect(read(codec.encodeChat([message]))).toBe("{oops");
  });
});

describe("a template that knows no tools", () => {
  const plain = codecWith("{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}");
  const system: ChatMessage = { role: "system", content: "Be brief." };
  const render = (messages: ChatMessage[], tools?: ToolDefinition[]) =>
    read(plain.encodeChat(messages, { tools }));
  const list =
    "You can call these tools:\n" +
    '{"name":"weather","description":"of a city","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}\n' +
    'To call one, write:\n<tool_call>\n{"name": "its name", "arguments": {its arguments}}\n</tool_call>';

  test("has them in a system message", () => {
    expect(render([question], [weather])).toBe(`[system|${list}][user|Paris?]`);
    expect(render([system, question], [drafted])).toBe(`[system|Be brief.\n\n${list}][user|Paris?]`);
  });

  test("has calls and results as text, and results in a row as one turn", () => {
    const call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>';
    const result = "<tool_response>\nsunny\n</tool_response>";
    expect(render([question, { ...asked, content: "I look." }, answered, answered, question])).toBe(
      `[user|Paris?][assistant|I look.\n${call}][user|${result}\n${result}][user|Paris?]`,
    );
  });

  test("of one turn has everything since the last question in it", () => {
    const tiny = createTextCodec(project("models/hrm-text-tiny"), "hrm_text");
    const tellTiny = (messages: ChatMessage[], tools?: ToolDefinition[]) =>
      tiny.decode(tiny.encodeChat(messages, { tools }));
    expect(tellTiny([question, asked, system, question], [weather])).toBe(`${list}\n\nParis?`);
    expect(tellTiny([system, question, asked, answered])).toBe(
      'Paris?\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n\n<tool_response>\nsunny\n</tool_response>',
    );
    // Without tools its prompt is what the model was trained on.
    expect(tellTiny([system, question])).toBe("Paris?");
    const ids = tiny.encodeChat([{ role: "user", content: "<|im_end|>" }], { tools: [weather] });
    expect(ids.filter((id) => id === 7)).toHaveLength(1);
  });
});

describe("an unfinished message", () => {
  const begun: ChatMessage = { role: "assistant", content: "It is  " };
  const turns =
    "{% for m in messages %}{{ m.role }}:{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

  test("is where the prompt ends", () => {
    const codec = codecWith(turns);
    expect(codec.encodeChat([question, begun], { continueFinalMessage: true })).toEqual([
      ...codes("user:Paris?"),
      201,
      ...codes("assistant:It is  "),
    ]);
  });

  test("is found where the template trims it, and the last time it is said", () => {
    const codec = codecWith(turns.replace("m.content", "m.content | trim"));
    const messages: ChatMessage[] = [{ role: "user", content: "It is" }, begun];
    const ids = codec.encodeChat(messages, { continueFinalMessage: true });
    expect(ids).toEqual([...codes("user:It is"), 201, ...codes("assistant:It is")]);
  });

  test("stands behind the question where the template shows one turn", () => {
    const codec = codecWith("{{ messages[-1].content }}<|end|>");
    const ids = codec.encodeChat([question, begun], { continueFinalMessage: true });
    expect(ids).toEqual([...codes("Paris?"), 201, ...codes("It is  ")]);
  });

  test.each<[string, ChatMessage, string]>([
    ["a user's", question, turns],
    ["an empty one", { role: "assistant", content: " " }, turns],
    ["one with calls", { ...asked, content: "I look." }, turns],
    ["one that the template does not show", begun, "{{ messages[0].content }}"],
  ])("%s cannot be continued", (_name, message, template) => {
    const codec = codecWith(template);
    expect(() => codec.encodeChat([question, message], { continueFinalMessage: true })).toThrow(
      InvalidRequestError,
    );
  });
});

test("the prompt of a next message can be left out", () => {
  const codec = codecWith("{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}");
  expect(codec.encodeChat([question])).toEqual(codes("Paris?>"));
  expect(codec.encodeChat([question], { addGenerationPrompt: false })).toEqual(codes("Paris?"));
});

test("a request's own template goes before the checkpoint's", () => {
  const codec = codecWith("own");
  expect(codec.encodeChat([question], { chatTemplate: "other {{ messages[0].content }}" })).toEqual(
    codes("other Paris?"),
  );
  expect(() => codec.encodeChat([question], { chatTemplate: "{% if %}" })).toThrow(InvalidRequestError);
});

test.each([
  ["<tool_call> <|python_tag|>", { toolCalls: "hermes", thinks: false }],
  ["{% if x %}<|python_tag|>{% endif %}", { toolCalls: "llama3-json", thinks: false }],
  ['{"name": function name, "parameters": dictionary of', { toolCalls: "llama3-json", thinks: false }],
  ["{{ '<think>\n\n</think>\n\n' }}", { toolCalls: "hermes", thinks: true }],
] as const)("%j shows %j", (template, format) => {
  expect(codecWith("").chatFormat(template)).toEqual(format);
  expect(codecWith(template).chatFormat()).toEqual(format);
});
