import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { InvalidRequestError } from "../../../src/engine/errors.ts";
import { createTextCodec } from "../../../src/engine/text/codec.ts";
import { project, shared } from "../../support/shared.ts";
import { asciiTokenizer, codes, type Folder, writeFolder } from "./support.ts";

const hrmTextTiny = project("models/hrm-text-tiny");
const codec = createTextCodec(hrmTextTiny, "hrm_text");
const folders: Folder[] = [];
afterAll(() => {
  for (const folder of folders) folder.remove();
});

interface Golden {
  prompt: string;
  prompt_ids: number[];
  output_ids: number[];
  output_text: string;
}
const golden = JSON.parse(readFileSync(`${hrmTextTiny}/golden.json`, "utf8")) as Golden[];

function chat(content: string): number[] {
  return codec.encodeChat([{ role: "user", content }]);
}

/** A codec of the ASCII vocabulary with `<s>` (200) and `<|end|>` (201) special, and this chat template. */
function codecWith(template: unknown, files: Record<string, unknown> = {}) {
  const added = [
    { id: 200, content: "<s>", special: true },
    { id: 201, content: "<|end|>", special: true },
  ];
  const config = { bos_token: "<s>", chat_template: template };
  const folder = writeFolder({
    "tokenizer.json": asciiTokenizer({ added }),
    "tokenizer_config.json": config,
    ...files,
  });
  folders.push(folder);
  return createTextCodec(folder.dir, "llama");
}

describe("hrm-text-tiny's golden file", () => {
  test("encodeChat gives the prompts' ids", () => {
    expect(golden.length).toBe(222);
    for (const { prompt, prompt_ids } of golden) expect(chat(prompt)).toEqual(prompt_ids);
  });

  test("decode and the incremental decoder give the answers' text", () => {
    for (const { output_ids, output_text } of golden) {
      expect(codec.decode(output_ids)).toBe(output_text);
      const detokenizer = codec.newDetokenizer([]);
      const pieces = output_ids.map((id) => detokenizer.push(id));
      expect(pieces.join("") + detokenizer.flush()).toBe(output_text);
    }
  });
});

describe("special tokens in message content", () => {
  test.each([
    "a <|im_end|><|box_end|> b",
    "<|im_end|>",
    "<|im_<|im_end|>end|>",
    "<|im_end<|im_end|>|>",
    "<|im_start|><|im_start|>",
    "<",
    "|>",
    "<|im_end|",
    "\ue000<|im_end|>\ue001",
  ])("%s is plain text, encoded in one run", (content) => {
    const ids = chat(content);
    expect(ids).toEqual([6, 8, ...codec.tokenizer.encodeText(content, { continues: true }), 7]);
    expect(ids.slice(2, -1).every((id) => id > 13)).toBe(true);
    expect(codec.decode(ids)).toBe(content);
  });

  test("white space around content is trimmed as the template says", () => {
    expect(chat("  <|im_end|> \n")).toEqual(chat("<|im_end|>"));
  });

  test("templates that join client texts join no special token", () => {
    const joined = codecWith(
      "{{ bos_token }}{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}<|end|>",
    );
    const messages = [
      { role: "user", name: "<|en", content: "d|>" },
      { role: "user", name: "<|end|>", content: "<|" },
      { role: "user", name: "end", content: "|><s>" },
    ] as const;
    expect(joined.encodeChat(messages)).toEqual([200, ...codes("<|end|><|end|><|end|><s>"), 201]);
  });

  test("content completes no token that the template's text begins", () => {
    const open = codecWith("<|en{{ messages[0].content }}");
    expect(open.encodeChat([{ role: "user", content: "d|>" }])).toEqual(codes("<|end|>"));
  });

  test("template variables are shielded too", () => {
    const other = codecWith("{{ key[0] }}<|end|>");
    const messages = [{ role: "user", content: "" }] as const;
    expect(other.encodeChat(messages, { templateKwargs: { key: ["<|end|>"] } })).toEqual([
      ...codes("<|end|>"),
      201,
    ]);
  });

  test("content that uses up every private-use character is refused only if a mark is needed", () => {
    const all = Array.from({ length: 0xf900 - 0xe000 }, (_, i) => String.fromCharCode(0xe000 + i)).join("");
    expect(codec.decode(chat(all))).toBe(all);
    expect(() => chat(`${all}<|im_end|>`)).toThrow(InvalidRequestError);
  });
});

describe("chat templates", () => {
  const hello = [{ role: "user", content: "hi" }] as const;

  test("the template's own text is one run with the content", () => {
    expect(
      codecWith("<s>[{{ messages[0].role }}] {{ messages[0].content }}!<|end|>").encodeChat(hello),
    ).toEqual([200, ...codes("[user] hi!"), 201]);
  });

  test("a list of templates gives its default, and a file goes before both", () => {
    const list = [
      { name: "tool_use", template: "tools" },
      { name: "default", template: "plain" },
    ];
    expect(codecWith(list).encodeChat(hello)).toEqual(codes("plain"));
    expect(codecWith(list, { "chat_template.jinja": "file\n" }).encodeChat(hello)).toEqual(codes("file"));
  });

  test("a client's variables reach the template, except those that would break it", () => {
    const echo = codecWith(
      "{{ mode }}{{ range(2) | length }}{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}",
    );
    const variables = {
      mode: "m",
      range: 1,
      messages: [],
      none: 1,
      true: 0,
      raise_exception: 0,
      namespace: 0,
      bos_token: "x",
    };
    expect(
      echo.encodeChat(hello, { templateKwargs: { ...variables, add_generation_prompt: false } }),
    ).toEqual(codes("m2hi>"));
  });

  test("a template that refuses is the request's fault, in its own words", () => {
    const strict = codecWith("{{ raise_exception('no name ' + messages[0].name) }}");
    const refuse = () => strict.encodeChat([{ role: "user", name: "<|end|>", content: "" }]);
    expect(refuse).toThrow(InvalidRequestError);
    expect(refuse).toThrow("Cannot render the chat template: no name <|end|>");
  });

  test("a template that cannot be read leaves completions working", () => {
    const broken = codecWith("{% if %}");
    expect(broken.encodePrompt("hi")).toEqual(codes("hi"));
    expect(() => broken.encodeChat(hello)).toThrow(InvalidRequestError);
  });

  test("no messages are refused", () => {
    expect(() => codec.encodeChat([])).toThrow(InvalidRequestError);
  });

  test("a model without a template points to completions", () => {
    const stories = createTextCodec(shared("models/tinystories-656k"), "llama");
    expect(() => stories.encodeChat(hello)).toThrow(InvalidRequestError);
    expect(() => stories.encodeChat(hello)).toThrow("/v1/completions");
  });

  test("an HRM-Text checkpoint without a template gets the direct condition", () => {
    const config = JSON.parse(readFileSync(`${hrmTextTiny}/tokenizer_config.json`, "utf8")) as Record<
      string,
      unknown
    >;
    const folder = writeFolder({ "tokenizer_config.json": { ...config, chat_template: null } }, hrmTextTiny);
    folders.push(folder);
    expect(createTextCodec(folder.dir, "hrm_text").encodeChat(hello)).toEqual(chat("hi"));
    expect(() => createTextCodec(folder.dir, "llama").encodeChat(hello)).toThrow("/v1/completions");
  });
});
