/** Parameters that name tokens, by id or by text. */
import { describe, expect, test } from "bun:test";
import type { TextCodec } from "../../src/engine/client.ts";
import {
  ALLOWED_TOKEN_IDS_MAX,
  BAD_WORD_CHARS_MAX,
  BAD_WORDS_MAX,
  LOGIT_BIAS_ENTRIES_MAX,
  STOP_TOKEN_IDS_MAX,
} from "../../src/limits.ts";
import { ScriptedClient } from "../support/scripted-client.ts";
import { chat, completions, hello, refused, submitted } from "./support.ts";

const outside = 65_536;

describe("ids", () => {
  test.each([
    ["stop_token_ids", STOP_TOKEN_IDS_MAX],
    ["allowed_token_ids", ALLOWED_TOKEN_IDS_MAX],
  ] as const)("%s", async (param, countMax) => {
    const ids = (count: number) => Array.from({ length: count }, () => 1);
    await submitted(completions, { prompt: "a", [param]: ids(countMax) });
    const wrong = [7, "7", {}, [-1], [1.5], ["1"], [null], [[1]], [1, outside], ids(countMax + 1)];
    for (const value of wrong) {
      expect((await refused(completions, { prompt: "a", [param]: value })).param).toBe(param);
      expect((await refused(chat, { ...hello, [param]: value })).param).toBe(param);
    }
  });

  test("no allowed id at all is refused, no stop id is none", async () => {
    expect((await refused(chat, { ...hello, allowed_token_ids: [] })).param).toBe("allowed_token_ids");
    expect((await submitted(chat, { ...hello, stop_token_ids: [] })).sampling.stopTokenIds).toEqual([]);
  });
});

describe("logit_bias", () => {
  const biases = (count: number) =>
    Object.fromEntries(Array.from({ length: count }, (_, id) => [String(id), 1]));

  test("ids in the vocabulary, biases from -100 to 100, not too many", async () => {
    const { penalties } = (await submitted(chat, { ...hello, logit_bias: biases(LOGIT_BIAS_ENTRIES_MAX) }))
      .sampling;
    expect(penalties?.logitBias?.size).toBe(LOGIT_BIAS_ENTRIES_MAX);
    expect((await submitted(chat, { ...hello, logit_bias: {} })).sampling.penalties?.logitBias?.size).toBe(0);
  });

  test.each([
    [7],
    ["{}"],
    [[]],
    [[[1, 2]]],
    [{ "1": "2" }],
    [{ "1": null }],
    [{ "1": 100.5 }],
    [{ "1": -101 }],
    [{ "-1": 0 }],
    [{ "01": 0 }],
    [{ "1.0": 0 }],
    [{ "": 0 }],
    [{ a: 0 }],
    [{ [outside]: 0 }],
    [JSON.parse('{"__proto__":1}')],
    [biases(LOGIT_BIAS_ENTRIES_MAX + 1)],
    [{ ["9".repeat(10_000)]: 1 }],
  ] as unknown[][])("%j is refused", async (logit_bias) => {
    const error = await refused(chat, { ...hello, logit_bias });
    expect(error.param).toBe("logit_bias");
    expect(error.message.length).toBeLessThan(200);
  });
});

describe("bad_words", () => {
  const badWords = async (words: string[], engine?: ScriptedClient) =>
    (await submitted(chat, { ...hello, bad_words: words }, engine)).sampling.penalties?.badWords;

  test("are banned with and without a space, whatever space the client put before them", async () => {
    const banned = [
      [97, 98],
      [32, 97, 98],
    ];
    expect(await badWords(["ab"])).toEqual(banned);
    expect(await badWords([" \n ab"])).toEqual(banned);
    expect(await badWords([])).toEqual([]);
  });

  test("what the tokenizer puts around a prompt is no part of them", async () => {
    const text: TextCodec = {
      ...new ScriptedClient().text,
      encodePrompt: (value) => [1, 2, ...new ScriptedClient().text.encodePrompt(value), 3],
    };
    expect(await badWords(["ab"], withText(text))).toEqual([
      [97, 98],
      [32, 97, 98],
    ]);
  });

  test("the two are one where the tokenizer knows no difference", async () => {
    const text: TextCodec = {
      ...new ScriptedClient().text,
      encodePrompt: (value) => new ScriptedClient().text.encodePrompt(value.trim()),
    };
    expect(await badWords(["ab"], withText(text))).toEqual([[97, 98]]);
  });

  test("must have tokens, of the model's vocabulary", async () => {
    const small = new ScriptedClient(undefined, { vocabSize: 98 });
    expect((await refused(chat, { ...hello, bad_words: ["ab"] }, small)).param).toBe("bad_words");
    const mute = withText({ ...new ScriptedClient().text, encodePrompt: () => [1] });
    const prompt = { prompt: [1], bad_words: ["ab"] };
    expect((await refused(completions, prompt, mute)).param).toBe("bad_words");
  });

  test.each([
    ["bad_words", "ab"],
    ["bad_words", Array.from({ length: BAD_WORDS_MAX + 1 }, () => "a")],
    ["bad_words[0]", [""]],
    ["bad_words[1]", ["a", " \n"]],
    ["bad_words[0]", [7]],
    ["bad_words[0]", ["x".repeat(BAD_WORD_CHARS_MAX + 1)]],
  ] as [string, unknown][])("fault in %s", async (param, bad_words) => {
    expect((await refused(chat, { ...hello, bad_words })).param).toBe(param);
  });
});

function withText(text: TextCodec): ScriptedClient {
  return Object.assign(new ScriptedClient(), { text });
}
