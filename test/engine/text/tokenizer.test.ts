import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { CheckpointError } from "../../../src/engine/errors.ts";
import { loadTokenizer, type Tokenizer } from "../../../src/engine/text/tokenizer.ts";
import { project, shared } from "../../support/shared.ts";
import { asciiTokenizer, codes, type Folder, writeFolder } from "./support.ts";

const hrmTextTiny = project("models/hrm-text-tiny");
const tinyStories = shared("models/tinystories-656k");

let folders: Folder[] = [];
afterEach(() => {
  for (const folder of folders) folder.remove();
  folders = [];
});

function folderOf(files: Record<string, unknown>, base?: string): string {
  const folder = writeFolder(files, base);
  folders.push(folder);
  return folder.dir;
}

function load(json: object, config: object = {}): Tokenizer {
  return loadTokenizer(folderOf({ "tokenizer.json": json, "tokenizer_config.json": config }));
}

describe("tinystories-656k", () => {
  const tokenizer = loadTokenizer(tinyStories);
  const golden = JSON.parse(readFileSync(`${tinyStories}/golden.json`, "utf8")) as {
    cases: { prompt: string; prompt_ids: number[] }[];
  };

  test("encodePrompt gives the golden ids", () => {
    expect(golden.cases.length).toBeGreaterThan(0);
    for (const { prompt, prompt_ids } of golden.cases)
      expect(tokenizer.encodePrompt(prompt)).toEqual(prompt_ids);
  });

  test("a BOS that the prompt spells is not doubled", () => {
    const ids = tokenizer.encodePrompt("Once upon a time");
    expect(tokenizer.encodePrompt("<|start_story|>Once upon a time")).toEqual(ids);
    expect(tokenizer.encodePrompt("")).toEqual([1]);
  });

  test("text between special tokens is normalised on its own", () => {
    const [, ...once] = tokenizer.encodePrompt("Once");
    expect(tokenizer.encodePrompt("Once<|end_story|>Once")).toEqual([1, ...once, 2, ...once]);
  });

  test("encodeText knows neither special tokens nor BOS", () => {
    const ids = tokenizer.encodeText("<|end_story|> x");
    expect(ids).not.toContain(1);
    expect(ids).not.toContain(2);
    expect(tokenizer.decode(tokenizer.encodeText("Once upon a time"))).toBe("Once upon a time");
  });

  test("neighbouring unknown characters become one unknown token", () => {
    expect(tokenizer.encodeText("a漢字b").filter((id) => id === 0)).toEqual([0]);
  });
});

describe("hrm-text-tiny", () => {
  const tokenizer = loadTokenizer(hrmTextTiny);

  test("knows its vocabulary", () => {
    expect(tokenizer.vocabSize).toBe(8192);
    expect(tokenizer.specialTokens.get("<|box_end|>")).toBe(11);
    expect(tokenizer.specialTokens.size).toBe(14);
    expect(tokenizer.idOf("<|im_end|>")).toBe(7);
    expect(tokenizer.idOf("Ġthe")).toBeGreaterThan(13);
    expect(tokenizer.idOf("no such token")).toBeUndefined();
  });

  test("encodePrompt takes special tokens at their word, encodeText as text", () => {
    expect(tokenizer.encodePrompt("<|im_start|>Hi<|im_end|>")).toEqual([6, ...tokenizer.encodeText("Hi"), 7]);
    expect(tokenizer.encodeText("<|im_start|>").every((id) => id > 13)).toBe(true);
  });

  test("decode is the inverse of encodeText, whatever the text", () => {
    const text = "Grüße! 漢字 👩‍👩‍👧 <|im_end|> \t\n x  don't  \u{10ffff}";
    expect(tokenizer.decode(tokenizer.encodeText(text))).toBe(text);
  });

  test("lone surrogates are encoded as U+FFFD", () => {
    expect(tokenizer.encodeText("a\ud800b")).toEqual(tokenizer.encodeText("a\ufffdb"));
  });

  test("decode leaves out special tokens, and ids beyond the vocabulary", () => {
    const ids = [6, ...tokenizer.encodeText("Hi"), 11, 9000, -1];
    expect(tokenizer.decode(ids)).toBe("Hi");
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe("<|im_start|>Hi<|box_end|>");
    expect(tokenizer.decode([])).toBe("");
  });
});

describe("vocabularies of other kinds", () => {
  const bos = { id: 200, content: "<s>", special: true };
  const eos = { id: 201, content: "</s>", special: true };

  test("the post-processor's tokens are added around a prompt", () => {
    const template = {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>" } }, { Sequence: { id: "A" } }, { SpecialToken: { id: "</s>" } }],
      special_tokens: { "<s>": { ids: [200] }, "</s>": { ids: [201] } },
    };
    const sequence = { type: "Sequence", processors: [{ type: "ByteLevel" }, template] };
    const tokenizer = load(asciiTokenizer({ added: [bos, eos], rest: { post_processor: sequence } }));
    expect(tokenizer.encodePrompt("hi")).toEqual([200, ...codes("hi"), 201]);
    expect(tokenizer.encodePrompt("<s>hi</s>")).toEqual([200, ...codes("hi"), 201]);
    expect(tokenizer.encodeText("hi")).toEqual(codes("hi"));
  });

  test("a vocabulary that matches whole words cannot be made to match a special one", () => {
    const model = { ignore_merges: true, vocab: { "<": 0, s: 1, ">": 2, "<s>": 3 } };
    const tokenizer = load(asciiTokenizer({ added: [{ ...bos, id: 3 }], model }));
    expect(tokenizer.encodeText("<s>")).toEqual([0, 1, 2]);
    expect(tokenizer.encodePrompt("<s>")).toEqual([3]);
    expect(tokenizer.decode([3, 1], { skipSpecialTokens: false })).toBe("<s> s");
  });

  test("a Unigram vocabulary neither", () => {
    const pieces: [string, number][] = [
      ["<unk>", 0],
      ["<", -1],
      ["/", -1],
      ["s", -1],
      [">", -1],
      ["</s>", 0],
    ];
    const model = { type: "Unigram", unk_id: 0, vocab: pieces };
    const added = [
      { ...eos, id: 5 },
      { id: 0, content: "<unk>", special: true },
    ];
    const tokenizer = load({ added_tokens: added, model }, { eos_token: "</s>" });
    expect(tokenizer.encodeText("</s>?")).toEqual([1, 2, 3, 4, 0]);
    expect(tokenizer.encodePrompt("s</s>")).toEqual([3, 5]);
  });

  test("an ordinary character that is also a padding token stays text", () => {
    const tokenizer = load(asciiTokenizer({ added: [{ id: 33, content: "!", special: true }] }));
    expect(tokenizer.encodeText("hi!")).toEqual(codes("hi!"));
  });

  test("added tokens that are not special count in plain text and in decoded text", () => {
    const tokenizer = load(asciiTokenizer({ added: [{ id: 210, content: "<think>" }] }));
    expect(tokenizer.encodeText("a<think>b")).toEqual([97, 210, 98]);
    expect(tokenizer.decode([210])).toBe("<think>");
    expect(tokenizer.specialTokens.size).toBe(0);
  });

  test("EOS and what tokenizer_config.json calls special are special", () => {
    const added = [
      { id: 210, content: "<end>" },
      { id: 211, content: "<tool>" },
    ];
    const decoder = { 211: { content: "<tool>", special: true }, 212: { content: "<late>", special: true } };
    const tokenizer = load(asciiTokenizer({ added }), {
      eos_token: { content: "<end>" },
      added_tokens_decoder: decoder,
    });
    expect([...tokenizer.specialTokens.keys()].sort()).toEqual(["<end>", "<late>", "<tool>"]);
    expect(tokenizer.encodePrompt("<end><tool><late>")).toEqual([210, 211, 212]);
  });

  test("a space for the first text only is not put before later ones", () => {
    const rest = {
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [{ type: "Metaspace", replacement: "▁", prepend_scheme: "first" }],
      },
    };
    const tokenizer = load(asciiTokenizer({ added: [bos], rest }));
    expect(tokenizer.encodePrompt("a b<s>a")).toEqual([127, 97, 127, 98, 200, 97]);
  });
});

describe("damaged checkpoints", () => {
  const emptyTemplate = { type: "TemplateProcessing", single: [], special_tokens: {} };

  test.each([
    ["text that is not JSON", "tokenizer.json", "{ not json", "expected JSON"],
    ["a list", "tokenizer.json", "[]", "expected object"],
    [
      "WordPiece",
      "tokenizer.json",
      { model: { type: "WordPiece", vocab: {} } },
      "a model of type BPE or Unigram",
    ],
    [
      "a negative id",
      "tokenizer.json",
      asciiTokenizer({ added: [{ id: -1, content: "x" }] }),
      "added_tokens.0.id",
    ],
    ["an unknown decoder", "tokenizer.json", asciiTokenizer({ rest: { decoder: { type: "Mine" } } }), "Mine"],
    [
      "an unknown post-processor",
      "tokenizer.json",
      asciiTokenizer({ rest: { post_processor: { type: "Mine" } } }),
      '"Mine"',
    ],
    [
      "a template without text",
      "tokenizer.json",
      asciiTokenizer({ rest: { post_processor: emptyTemplate } }),
      '"Sequence"',
    ],
    ["a number for BOS", "tokenizer_config.json", { bos_token: 7 }, "bos_token"],
  ])("%s in %s is refused by name", (_what, name, content, found) => {
    const dir = folderOf({ [name]: content }, hrmTextTiny);
    expect(() => loadTokenizer(dir)).toThrow(CheckpointError);
    expect(() => loadTokenizer(dir)).toThrow(name);
    expect(() => loadTokenizer(dir)).toThrow(found);
  });

  test("a missing file is named", () => {
    const dir = folderOf({ "tokenizer.json": asciiTokenizer() });
    expect(() => loadTokenizer(dir)).toThrow(CheckpointError);
    expect(() => loadTokenizer(dir)).toThrow("tokenizer_config.json");
    expect(() => loadTokenizer(`${dir}/nowhere`)).toThrow("tokenizer.json");
  });
});
