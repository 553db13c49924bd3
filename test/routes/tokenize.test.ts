/** Text to ids and back, without a generation. */
import { describe, expect, test } from "bun:test";
import { createTextCodec } from "../../src/engine/text/codec.ts";
import { ScriptedClient } from "../support/scripted-client.ts";
import { shared } from "../support/shared.ts";
import { refused, setUp } from "./support.ts";

const codes = (text: string) => [...text].map((char) => char.charCodeAt(0));

async function answer(path: string, body: object): Promise<unknown> {
  const response = await setUp().post(path, body);
  if (response.status !== 200) throw new Error(await response.text());
  return response.json();
}

describe.each(["", "/v1"])("under %p", (base) => {
  test("a prompt's ids", async () => {
    expect(await answer(`${base}/tokenize`, { prompt: "ab", model: "scripted" })).toEqual({
      count: 2,
      max_model_len: 64,
      tokens: [97, 98],
      token_strs: null,
    });
  });

  test("their spelling, if asked for", async () => {
    const body = { prompt: "ab", return_token_strs: true };
    expect(await answer(`${base}/tokenize`, body)).toMatchObject({ token_strs: ["<a>", "<b>"] });
  });

  test("a conversation's ids", async () => {
    const body = { messages: [{ role: "user", content: "hi" }], add_special_tokens: false };
    const tokens = codes("user:hi;");
    expect(await answer(`${base}/tokenize`, body)).toMatchObject({ count: 8, tokens });
  });

  test("the text of ids", async () => {
    expect(await answer(`${base}/detokenize`, { tokens: codes("hi") })).toEqual({ prompt: "hi" });
    expect(await answer(`${base}/detokenize`, { tokens: [] })).toEqual({ prompt: "" });
  });
});

test("text longer than the context is counted all the same, and an empty one", async () => {
  expect(await answer("/tokenize", { prompt: "x".repeat(100) })).toMatchObject({ count: 100 });
  expect(await answer("/tokenize", { prompt: "" })).toMatchObject({ count: 0, tokens: [] });
});

test.each([
  ["/tokenize", "prompt", {}],
  ["/tokenize", "prompt", { prompt: [1] }],
  ["/tokenize", "prompt", { prompt: "a", messages: [{ role: "user", content: "" }] }],
  ["/tokenize", "messages", { messages: [] }],
  [
    "/tokenize",
    "add_special_tokens",
    { messages: [{ role: "user", content: "" }], add_special_tokens: true },
  ],
  ["/tokenize", "bogus", { prompt: "a", bogus: 1 }],
  ["/detokenize", "tokens", {}],
  ["/detokenize", "tokens", { tokens: "a" }],
  ["/detokenize", "tokens", { tokens: [-1] }],
  ["/detokenize", "tokens", { tokens: [65_536] }],
])("%s refuses by name: %s", async (path, param, body) => {
  expect((await refused(path, body)).param).toBe(param);
});

test("another model is a 404", async () => {
  const { post } = setUp();
  expect((await post("/tokenize", { prompt: "a", model: "other" })).status).toBe(404);
  expect((await post("/detokenize", { tokens: [1], model: "other" })).status).toBe(404);
});

test("with a real vocabulary: BOS or none, special tokens kept in the text of ids", async () => {
  const engine = new ScriptedClient();
  const text = createTextCodec(shared("models/tinystories-656k"), "llama");
  const { post } = setUp(Object.assign(engine, { text }));
  const tokenize = async (body: object) =>
    (await (await post("/tokenize", body)).json()) as { tokens: number[]; token_strs: string[] };
  const whole = await tokenize({ prompt: "Once upon a time", return_token_strs: true });
  const bare = await tokenize({ prompt: "Once upon a time", add_special_tokens: false });
  expect(whole.token_strs.slice(1).join("")).toBe("▁Once▁upon▁a▁time");
  expect(whole.tokens.slice(1)).toEqual(bare.tokens);
  const back: unknown = await (await post("/detokenize", { tokens: whole.tokens })).json();
  expect(back).toEqual({ prompt: text.decode(whole.tokens, { skipSpecialTokens: false }) });
  expect(text.decode(whole.tokens)).toBe("Once upon a time");
});
