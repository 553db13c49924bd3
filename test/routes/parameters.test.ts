import { describe, expect, test } from "bun:test";
import {
  CACHE_SALT_CHARS_MAX,
  PROMPTS_MAX,
  REQUEST_ID_CHARS_MAX,
  MESSAGES_MAX,
  STOP_STRING_CHARS_MAX,
  STOP_STRINGS_MAX,
} from "../../src/limits.ts";
import { say, ScriptedClient } from "../support/scripted-client.ts";
import { chat, completions, type ErrorJson, hello, refused, setUp, submitted } from "./support.ts";

/** Ends three answers at once. */
const manyChoices = () =>
  new ScriptedClient(
    async function* (request, signal) {
      for (const choice of [0, 1, 2])
        for await (const event of say()(request, signal)) yield { ...event, choice };
    },
    { maxChoices: 3 },
  );

describe("sampling", () => {
  test("defaults are the checkpoint's and the API's", async () => {
    expect(await submitted(completions, { prompt: "abc" })).toEqual({
      id: "cmpl-2",
      promptIds: [97, 98, 99],
      priority: 0,
      cacheSalt: undefined,
      sampling: {
        maxTokens: 16,
        temperature: 0.5,
        topP: 0.25,
        topK: 7,
        minP: 0.125,
        seed: 99n,
        stop: [],
        includeStop: false,
        showSpecialTokens: false,
        n: 1,
        minTokens: 0,
        ignoreEos: false,
        stopTokenIds: [],
        allowedTokenIds: undefined,
        penalties: { presence: 0, frequency: 0, repetition: 1, logitBias: new Map(), badWords: [] },
        logprobs: undefined,
        promptLogprobs: undefined,
      },
    });
  });

  test.each([completions, chat])("everything can be set: %s", async (path) => {
    const body = {
      ...{ temperature: 0, top_p: 1, top_k: 3, min_p: 0, seed: 5, stop: ["a", "b"], max_tokens: 2 },
      ...{ n: 3, min_tokens: 2, ignore_eos: true, stop_token_ids: [5, 0], allowed_token_ids: [7, 65_535] },
      ...{ presence_penalty: -2, frequency_penalty: 2, repetition_penalty: 0.01, bad_words: ["x"] },
      ...{ logit_bias: { "0": -100, "65535": 0.5 }, priority: -7, cache_salt: "s" },
      ...{ include_stop_str_in_output: true, skip_special_tokens: false },
      ...(path === chat ? { ...hello, logprobs: true, top_logprobs: 4 } : { prompt: "abc", logprobs: 4 }),
    };
    const { sampling, priority, cacheSalt } = await submitted(path, body, manyChoices());
    expect({ priority, cacheSalt }).toEqual({ priority: -7, cacheSalt: "s" });
    expect(sampling).toEqual({
      maxTokens: 2,
      temperature: 0,
      topP: 1,
      topK: 3,
      minP: 0,
      seed: 5n,
      stop: ["a", "b"],
      includeStop: true,
      showSpecialTokens: true,
      n: 3,
      minTokens: 2,
      ignoreEos: true,
      stopTokenIds: [5, 0],
      allowedTokenIds: [7, 65_535],
      penalties: {
        presence: -2,
        frequency: 2,
        repetition: 0.01,
        logitBias: new Map([
          [0, -100],
          [65_535, 0.5],
        ]),
        badWords: [[120], [32, 120]],
      },
      logprobs: 4,
      promptLogprobs: undefined,
    });
  });

  test("null is absent, everywhere", async () => {
    const nulls = Object.fromEntries(
      ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p"]
        .concat(["top_k", "min_p", "seed", "stop", "n", "user", "metadata", "logprobs", "echo", "tools"])
        .concat(["min_tokens", "ignore_eos", "stop_token_ids", "allowed_token_ids", "bad_words", "priority"])
        .concat(["suffix", "best_of", "prompt_logprobs", "return_token_ids", "request_id"])
        .concat(["skip_special_tokens", "truncate_prompt_tokens", "include_stop_str_in_output"])
        .concat(["presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "cache_salt"])
        .map((name) => [name, null]),
    );
    const plain = await submitted(completions, { prompt: "abc" });
    expect(await submitted(completions, { prompt: "abc", prefix_len: null, ...nulls })).toEqual(plain);
    const withNull = { messages: [{ role: "user", content: "hi", name: null, refusal: null }] };
    expect(await submitted(chat, { ...withNull, ...nulls })).toEqual(await submitted(chat, hello));
    const stream = { stream: true, stream_options: { include_usage: null } };
    expect(await submitted(chat, { ...hello, ...stream })).toEqual(await submitted(chat, hello));
  });

  test.each([
    [-1, 0],
    [0, 0],
    [1, 1],
  ])("top_k %i means %i", async (given, meant) => {
    expect((await submitted(completions, { prompt: "a", top_k: given })).sampling.topK).toBe(meant);
  });

  test.each([
    ["0", 0n],
    ["-1", 0xffff_ffff_ffff_ffffn],
    ["9223372036854775807", 1n << 63n],
    ["-9223372036854775808", 1n << 63n],
    ["12345678901234567890123", null],
  ])("seed %s", async (text, meant) => {
    const { post, engine } = setUp();
    const response = await post(completions, `{"prompt":"a","seed":${text}}`);
    expect(response.status).toBe(meant === null ? 400 : 200);
    if (meant !== null) expect(engine.submissions[0].request.sampling.seed).toBe(meant);
  });

  test("a chat takes the rest of the context, a completion no more than that", async () => {
    const promptTokens = "user:hi;".length;
    expect((await submitted(chat, hello)).sampling.maxTokens).toBe(64 - promptTokens);
    expect((await submitted(completions, { prompt: "x".repeat(60) })).sampling.maxTokens).toBe(4);
    expect((await submitted(completions, { prompt: "x".repeat(99) })).sampling.maxTokens).toBe(1);
  });

  test("min_tokens is at most as many as can be generated", async () => {
    const asked = { prompt: "abc", min_tokens: 16 };
    expect((await submitted(completions, asked)).sampling.minTokens).toBe(16);
    expect((await refused(completions, { ...asked, max_tokens: 15 })).param).toBe("min_tokens");
    expect((await refused(completions, { ...asked, max_completion_tokens: 15 })).param).toBe("min_tokens");
    expect((await refused(completions, { ...asked, min_tokens: 17 })).param).toBe("min_tokens");
    // A prompt that fills the context is the engine's to refuse, by its own name.
    await submitted(completions, { ...asked, prompt: "x".repeat(64) });
    expect((await submitted(chat, { ...hello, min_tokens: 56 })).sampling.minTokens).toBe(56);
    expect((await refused(chat, { ...hello, min_tokens: 57 })).param).toBe("min_tokens");
  });

  test("max_completion_tokens is max_tokens", async () => {
    for (const path of [chat, completions]) {
      const prompt = path === chat ? hello : { prompt: "a" };
      const asked = { ...prompt, max_completion_tokens: 3 };
      expect((await submitted(path, asked)).sampling.maxTokens).toBe(3);
      expect((await submitted(path, { ...asked, max_tokens: 3 })).sampling.maxTokens).toBe(3);
      expect((await refused(path, { ...asked, max_tokens: 4 })).param).toBe("max_tokens");
    }
  });

  const tooManyStops = Array.from({ length: STOP_STRINGS_MAX + 1 }, () => "a");
  test.each([
    ["temperature", [-0.1, 101, "1", true, [], {}]],
    ["top_p", [0, -1, 1.01, "1"]],
    ["top_k", [-2, 1.5, "1"]],
    ["min_p", [-0.1, 1.1]],
    ["seed", [1.5, "1", 2 ** 64]],
    ["max_tokens", [0, -1, 1.5, "16", 1e300]],
    ["max_completion_tokens", [0, {}]],
    ["stop", [7, {}, tooManyStops]],
    ["stop[0]", [[7], [""], "", "x".repeat(STOP_STRING_CHARS_MAX + 1)]],
    ["stream", ["true", 1]],
    ["stream_options", [true, []]],
    ["model", [7, {}]],
    ["n", [0, 1.5, "1", 2]],
    ["min_tokens", [-1, 0.5, "1"]],
    ["ignore_eos", [1, "true"]],
    ["presence_penalty", [-2.1, 2.1, "1"]],
    ["frequency_penalty", [-2.1, 2.1, []]],
    ["repetition_penalty", [0, -1, 0.009, 101, "1"]],
    ["priority", [0.5, "1", 1e300]],
    ["cache_salt", ["", 7, "x".repeat(CACHE_SALT_CHARS_MAX + 1)]],
    ["request_id", ["", "a b", "x".repeat(REQUEST_ID_CHARS_MAX + 1), 7]],
    ["include_stop_str_in_output", [1]],
    ["skip_special_tokens", ["no"]],
    ["spaces_between_special_tokens", [false, 1]],
    ["return_token_ids", [1]],
    ["prompt_logprobs", [-1, 21, true, 0.5]],
    ["truncate_prompt_tokens", [-2, 0, 65, "1"]],
  ] as [string, unknown[]][])("%s is refused by name", async (param, values) => {
    for (const value of values) {
      const name = param.replace("[0]", "");
      const error = await refused(completions, { prompt: "a", stream: true, [name]: value });
      expect(error.param).toBe(param);
      expect(error.message).toMatch(/^Cannot accept .*: expected .*, got /);
    }
  });
});

describe("what is not supported", () => {
  test.each(["tools", "suffix", "use_beam_search", "guided_json", "bogus"])(
    "%s is refused by name",
    async (name) => {
      expect((await refused(chat, { ...hello, [name]: 1 })).param).toBe(name);
      expect((await refused(completions, { prompt: "a", [name]: [] })).param).toBe(name);
    },
  );

  test.each([
    ["best_of", 1, 2],
    ["use_beam_search", false, true],
    ["length_penalty", 1, 2],
    ["spaces_between_special_tokens", true, false],
    ["suffix", null, "end"],
  ])("%s may be %p and not %p", async (name, neutral, other) => {
    await submitted(completions, { prompt: "a", [name]: neutral });
    expect((await refused(completions, { prompt: "a", [name]: other })).param).toBe(name);
    expect((await refused(chat, { ...hello, [name]: other })).param).toBe(name);
  });

  test("accounting is accepted and changes nothing", async () => {
    const accounting = { user: "me", metadata: { a: "b" }, store: true, service_tier: "auto" };
    expect(await submitted(chat, { ...hello, ...accounting })).toEqual(await submitted(chat, hello));
  });

  test("stream_options needs stream and knows usages only", async () => {
    const options = { stream_options: { include_usage: true } };
    expect((await refused(chat, { ...hello, ...options })).param).toBe("stream_options");
    expect((await refused(chat, { ...hello, ...options, stream: false })).param).toBe("stream_options");
    const unknown = { stream: true, stream_options: { include_usage: true, other: 1 } };
    expect((await refused(chat, { ...hello, ...unknown })).param).toBe("stream_options.other");
  });

  test("what is echoed is cut short", async () => {
    const long = "x".repeat(10_000);
    const errors = [
      await refused(completions, { prompt: "a", temperature: long }),
      await refused(completions, { prompt: "a", [long]: 1 }),
      await refused(chat, { messages: [{ role: long, content: "" }] }),
    ];
    for (const { message } of errors) expect(message.length).toBeLessThan(250);
  });
});

describe("model", () => {
  test("the model's name or none; another is a 404", async () => {
    await submitted(chat, { ...hello, model: "scripted" });
    for (const model of ["other", "", "y".repeat(500)]) {
      const { post, engine } = setUp();
      const response = await post(chat, { ...hello, model });
      expect(response.status).toBe(404);
      const { error } = (await response.json()) as ErrorJson;
      expect(error).toMatchObject({ param: "model", code: "model_not_found", type: "invalid_request_error" });
      expect(error.message.length).toBeLessThan(200);
      expect(engine.submissions).toEqual([]);
    }
  });
});

describe("prompt", () => {
  test.each([completions, chat])("is cut at its beginning if asked for: %s", async (path) => {
    const body = path === chat ? hello : { prompt: "user:hi;" };
    const textOf = async (more: object) =>
      String.fromCharCode(...(await submitted(path, { ...body, ...more })).promptIds);
    expect(await textOf({ truncate_prompt_tokens: 3 })).toBe("hi;");
    expect(await textOf({ truncate_prompt_tokens: 64 })).toBe("user:hi;");
    expect(await textOf({ truncate_prompt_tokens: -1 })).toBe("user:hi;");
    expect(await textOf({ truncate_prompt_tokens: -1, max_tokens: 60 })).toBe(":hi;");
  });

  test("what is cut off is missing of the bidirectional prefix", async () => {
    const body = { prompt: "abcdef", truncate_prompt_tokens: 4 };
    for (const [prefix_len, left] of [
      [5, 3],
      [6, 4],
      [1, 0],
    ]) {
      expect(await submitted(completions, { ...body, prefix_len })).toMatchObject({ prefixLength: left });
    }
  });

  test("a string, ids, or an array of one of these", async () => {
    for (const prompt of ["ab", ["ab"], [97, 98], [[97, 98]]]) {
      expect((await submitted(completions, { prompt })).promptIds).toEqual([97, 98]);
    }
  });

  test.each([
    [["a", ""]],
    [["a", []]],
    [["a", [1, "b"]]],
    [Array.from({ length: PROMPTS_MAX + 1 }, () => "a")],
    [[]],
    [[[]]],
    [[1, "a"]],
    [[-1]],
    [[1.5]],
    [[[[1]]]],
    [7],
    [{}],
    [""],
  ])("%j is refused", async (prompt) => {
    expect((await refused(completions, { prompt })).param).toBe("prompt");
  });

  test("must be there", async () => {
    expect((await refused(completions, {})).param).toBe("prompt");
    expect((await refused(completions, { prompt: null })).param).toBe("prompt");
  });

  test("prefix_len is up to the prompt's length, and for a Prefix LM", async () => {
    for (const prefix_len of [0, 2, 3]) {
      const request = await submitted(completions, { prompt: "abc", prefix_len });
      expect(request.prefixLength).toBe(prefix_len);
    }
    for (const prefix_len of [-1, 4, 0.5, "1"]) {
      expect((await refused(completions, { prompt: "abc", prefix_len })).param).toBe("prefix_len");
    }
    expect((await refused(chat, { ...hello, prefix_len: 0 })).param).toBe("prefix_len");
    const causal = new ScriptedClient(undefined, { isPrefixLm: false });
    expect((await refused(completions, { prompt: "abc", prefix_len: 0 }, causal)).param).toBe("prefix_len");
  });
});

describe("messages", () => {
  const promptOf = async (messages: object[]): Promise<string> => {
    const { promptIds } = await submitted(chat, { messages });
    return String.fromCharCode(...promptIds);
  };

  test("strings and text parts, every role that a template knows", async () => {
    const messages = [
      { role: "developer", content: "be brief" },
      {
        role: "user",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b" },
        ],
      },
      { role: "assistant", content: "", refusal: null },
    ];
    expect(await promptOf(messages)).toBe("system:be brief;user:a\nb;assistant:;");
    expect(await promptOf([{ role: "user", content: [] }])).toBe("user:;");
  });

  test.each([
    ["messages", undefined],
    ["messages", []],
    ["messages", "hi"],
    ["messages", Array.from({ length: MESSAGES_MAX + 1 }, () => ({ role: "user", content: "" }))],
    ["messages[0]", ["hi"]],
    ["messages[0].role", [{ content: "hi" }]],
    ["messages[0].role", [{ role: "function", name: "f", content: "hi" }]],
    ["messages[0].tool_call_id", [{ role: "tool", content: "hi" }]],
    ["messages[0].tool_call_id", [{ role: "user", content: "hi", tool_call_id: "1" }]],
    ["messages[0].tool_calls", [{ role: "user", content: "hi", tool_calls: [] }]],
    ["messages[0].tool_calls[0].type", [{ role: "assistant", tool_calls: [{ id: "1", type: "custom" }] }]],
    ["messages[0].reasoning", [{ role: "user", content: "hi", reasoning: "a" }]],
    ["messages[0].reasoning_content", [{ role: "tool", content: "hi", reasoning_content: "a" }]],
    ["messages[0].content", [{ role: "assistant" }]],
    ["messages[0].content", [{ role: "user" }]],
    ["messages[0].content", [{ role: "user", content: null }]],
    ["messages[0].content", [{ role: "user", content: 7 }]],
    ["messages[0].name", [{ role: "user", content: "hi", name: "" }]],
    ["messages[0].other", [{ role: "user", content: "hi", other: 1 }]],
    ["messages[0].__proto__", JSON.parse('[{"role":"user","content":"hi","__proto__":{}}]')],
    ["messages[0].content[0].text", [{ role: "user", content: [{ type: "text" }] }]],
    ["messages[0].content[0].type", [{ role: "user", content: [{ type: "image_url", text: "" }] }]],
    [
      "messages[1].content[1].type",
      [
        { role: "user", content: "hi" },
        {
          role: "user",
          content: [
            { type: "text", text: "" },
            { type: "input_audio", input_audio: {} },
          ],
        },
      ],
    ],
  ] as [string, unknown][])("fault in %s", async (param, messages) => {
    expect((await refused(chat, { messages })).param).toBe(param);
  });
});
