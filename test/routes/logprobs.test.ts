/** Log-probabilities in both shapes, and the names that tokens get in them. */
import { describe, expect, test } from "bun:test";
import type { EngineClient, TextCodec, TokenLogprobs } from "../../src/engine/client.ts";
import { idleStats, type Script, ScriptedClient } from "../support/scripted-client.ts";
import { chat, chunksOf, completions, hello, refused, setUp, submitted } from "./support.ts";

const [A, B, C] = [65, 66, 67];
const first: TokenLogprobs = {
  chosen: { id: A, logprob: -1, rank: 2 },
  top: [
    { id: B, logprob: -0.5, rank: 1 },
    { id: A, logprob: -1, rank: 2 },
  ],
};
const second: TokenLogprobs = {
  chosen: { id: C, logprob: -Infinity, rank: 9 },
  top: [{ id: B, logprob: -0.25, rank: 1 }],
};
const logprobsOnly: TokenLogprobs = { chosen: { id: B, logprob: -2, rank: 3 }, top: [] };

/** Says "A", holds "C" back, says it with "B". */
const script: Script = async function* ({ promptIds }) {
  yield { type: "text", choice: 0, text: "A", tokenIds: [A], logprobs: [first] };
  yield { type: "text", choice: 0, text: "", tokenIds: [C], logprobs: [second] };
  yield { type: "text", choice: 0, text: "CB", tokenIds: [B], logprobs: [logprobsOnly] };
  yield {
    type: "finish",
    choice: 0,
    reason: "stop",
    promptTokens: promptIds.length,
    completionTokens: 3,
  };
};

const chatEntry = (token: string, logprob: number) => ({ token, logprob, bytes: [token.charCodeAt(0)] });
const chatContent = [
  { ...chatEntry("A", -1), top_logprobs: [chatEntry("B", -0.5), chatEntry("A", -1)] },
  { ...chatEntry("C", -9999), top_logprobs: [chatEntry("B", -0.25)] },
  { ...chatEntry("B", -2), top_logprobs: [] },
];

interface Answer {
  choices: { text?: string; delta?: { content?: string }; logprobs: unknown }[];
}

describe("a chat's", () => {
  const asked = { ...hello, logprobs: true, top_logprobs: 2 };

  test("whole", async () => {
    const { post, engine } = setUp(new ScriptedClient(script));
    const { choices } = (await (await post(chat, asked)).json()) as Answer;
    expect(choices[0].logprobs).toEqual({ content: chatContent, refusal: null });
    expect(engine.submissions[0].request.sampling.logprobs).toBe(2);
  });

  test("streamed, with each chunk its own tokens, those without text too", async () => {
    const { post } = setUp(new ScriptedClient(script));
    const chunks = (await chunksOf(await post(chat, { ...asked, stream: true }))) as Answer[];
    expect(chunks.map(({ choices: [{ delta, logprobs }] }) => [delta?.content, logprobs])).toEqual([
      ["", null],
      ["A", { content: [chatContent[0]], refusal: null }],
      ["", { content: [chatContent[1]], refusal: null }],
      ["CB", { content: [chatContent[2]], refusal: null }],
      [undefined, null],
    ]);
  });

  test.each([
    [{ logprobs: true }, 0],
    [{ logprobs: true, top_logprobs: 20 }, 20],
    [{ logprobs: false, top_logprobs: 0 }, undefined],
    [{ top_logprobs: 0 }, undefined],
    [{}, undefined],
  ])("%j asks the engine for %s", async (parameters, count) => {
    expect((await submitted(chat, { ...hello, ...parameters })).sampling.logprobs).toBe(count);
  });

  test.each([
    ["top_logprobs", { top_logprobs: 1 }],
    ["top_logprobs", { logprobs: false, top_logprobs: 1 }],
    ["top_logprobs", { logprobs: true, top_logprobs: 21 }],
    ["top_logprobs", { logprobs: true, top_logprobs: -1 }],
    ["logprobs", { logprobs: 2 }],
  ])("%s is refused in %j", async (param, parameters) => {
    expect((await refused(chat, { ...hello, ...parameters })).param).toBe(param);
  });
});

describe("a completion's", () => {
  const legacy = {
    tokens: ["A", "C", "B"],
    token_logprobs: [-1, -9999, -2],
    top_logprobs: [{ B: -0.5, A: -1 }, { B: -0.25, C: -9999 }, { B: -2 }],
    text_offset: [0, 1, 2],
  };

  test("whole; the chosen token is always among the likely ones", async () => {
    const { post, engine } = setUp(new ScriptedClient(script));
    const { choices } = (await (await post(completions, { prompt: "abc", logprobs: 2 })).json()) as Answer;
    expect(choices[0].logprobs).toEqual(legacy);
    expect(engine.submissions[0].request.sampling.logprobs).toBe(2);
  });

  test("streamed; offsets go on", async () => {
    const { post } = setUp(new ScriptedClient(script));
    const body = { prompt: "abc", logprobs: 2, stream: true };
    const chunks = (await chunksOf(await post(completions, body))) as Answer[];
    const at = (index: number) =>
      Object.fromEntries(Object.entries(legacy).map(([key, values]) => [key, [values[index]]]));
    expect(chunks.map(({ choices: [{ text, logprobs }] }) => [text, logprobs])).toEqual([
      ["A", at(0)],
      ["", at(1)],
      ["CB", at(2)],
      ["", null],
    ]);
  });

  test("0 is the chosen token's alone", async () => {
    expect((await submitted(completions, { prompt: "a", logprobs: 0 })).sampling.logprobs).toBe(0);
  });

  test.each([[{ logprobs: true }], [{ logprobs: 21 }], [{ logprobs: -1 }], [{ logprobs: 1.5 }]])(
    "%j is refused",
    async (parameters) => {
      expect((await refused(completions, { prompt: "a", ...parameters })).param).toBe("logprobs");
    },
  );

  test("top_logprobs is the chat's", async () => {
    expect((await refused(completions, { prompt: "a", logprobs: 1, top_logprobs: 1 })).param).toBe(
      "top_logprobs",
    );
  });
});

describe("names of tokens", () => {
  // Bytes as ids, but for two: 300 is a word with a space that a text does not begin with, 301 is special.
  const bytes = new TextEncoder();
  const text: TextCodec = {
    encodePrompt: (value) => [...bytes.encode(value)],
    encodeChat: () => [301],
    spell: () => "",
    chatFormat: () => ({ toolCalls: "hermes" as const, thinks: false }),
    decode: (ids) => {
      const pieces = ids.flatMap((id) => (id === 300 ? [...bytes.encode(" word")] : id === 301 ? [] : [id]));
      return new TextDecoder().decode(Uint8Array.from(pieces)).replace(/^ /, "");
    },
  };

  async function named(prompt: string, ids: number[], top: number[] = []) {
    const chosenOf = (id: number) => ({ id, logprob: -1, rank: 1 });
    const logprobs = ids.map((id) => ({ chosen: chosenOf(id), top: top.map(chosenOf) }));
    const engine: EngineClient = {
      model: new ScriptedClient().model,
      text,
      adapter: "none",
      healthy: true,
      stats: () => Promise.resolve(idleStats),
      close: () => Promise.resolve(),
      async *submit() {
        yield { type: "text", choice: 0, text: text.decode(ids), tokenIds: ids, logprobs };
        yield { type: "finish", choice: 0, reason: "stop", promptTokens: 1, completionTokens: ids.length };
      },
    };
    const { post } = setUp(engine as ScriptedClient);
    const legacy = (await (await post(completions, { prompt, logprobs: 1 })).json()) as {
      choices: { logprobs: { tokens: string[]; text_offset: number[] } }[];
    };
    const whole = (await (await post(chat, { ...hello, logprobs: true, top_logprobs: 1 })).json()) as {
      choices: { logprobs: { content: { bytes: number[] | null; top_logprobs: { token: string }[] }[] } }[];
    };
    const { content } = whole.choices[0].logprobs;
    const { tokens, text_offset: offsets } = legacy.choices[0].logprobs;
    const likely = content.map(({ top_logprobs }) => top_logprobs.map(({ token }) => token));
    return { tokens, offsets, bytes: content.map((token) => token.bytes), likely };
  }

  test("a word keeps its space behind another token", async () => {
    const { tokens, offsets } = await named("a", [300, 300]);
    expect([tokens, offsets]).toEqual([
      [" word", " word"],
      [0, 5],
    ]);
  });

  test("parts of a character are U+FFFD without bytes, and begin where it does", async () => {
    const parts = [...bytes.encode("😀")];
    const { tokens, offsets, bytes: found } = await named("a", [A, ...parts, B]);
    expect(tokens).toEqual(["A", "\ufffd", "\ufffd", "\ufffd", "\ufffd", "B"]);
    expect(offsets).toEqual([0, 1, 1, 1, 1, 2]);
    expect(found).toEqual([[A], null, null, null, null, [B]]);
  });

  test("bytes that never become a character do not keep the rest from its names", async () => {
    const { tokens, offsets } = await named("a", [0xf0, A, 0xff, 0xff, 0xff, 0xff, B]);
    expect(tokens).toEqual(["\ufffd", "A", "\ufffd", "\ufffd", "\ufffd", "\ufffd", "B"]);
    expect(offsets).toEqual([0, 0, 2, 2, 2, 2, 6]);
  });

  test("likely tokens are named behind the same text; a special one has no text", async () => {
    expect((await named("a", [A, B], [300])).likely).toEqual([["word"], [" word"]]);
    expect(await named("a", [A, 301, B])).toMatchObject({
      tokens: ["A", "", "B"],
      offsets: [0, 1, 1],
      bytes: [[A], [], [B]],
    });
  });
});
