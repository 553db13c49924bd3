/** What a completion does with prompts: several at once, echoed, with log-probabilities and ids of their own. */
import { describe, expect, test } from "bun:test";
import type { TokenLogprobs } from "../../src/engine/client.ts";
import { QueueFullError } from "../../src/engine/errors.ts";
import { aborted, type Script, ScriptedClient } from "../support/scripted-client.ts";
import { chat, chunksOf, completions, hello, refused, setUp, until } from "./support.ts";

const codes = (text: string) => [...text].map((char) => char.charCodeAt(0));
const entry = (char: string, logprob: number, rank: number) => ({ id: char.charCodeAt(0), logprob, rank });

/** Each token is second to "z", whatever comes before it. */
function foretold(text: string): TokenLogprobs[] {
  return [...text].map((char) => ({
    chosen: entry(char, -2, 2),
    top: [entry("z", -0.25, 1), entry(char, -2, 2)],
  }));
}

/** Answers with the prompt in capitals, a token at a time, its answers in turn; tells of the prompt what it was asked for. */
const shout: Script = async function* ({ promptIds, sampling }) {
  const { n = 1, promptLogprobs, logprobs } = sampling;
  const prompt = String.fromCharCode(...promptIds);
  const told = promptLogprobs === undefined ? {} : { logprobs: foretold(prompt.slice(1)) };
  yield { type: "prompt", cachedTokens: 1, ...told };
  for (const text of prompt.toUpperCase()) {
    const listed = logprobs === undefined ? {} : { logprobs: foretold(text) };
    for (let choice = 0; choice < n; choice++) {
      yield { type: "text", choice, text, tokenIds: codes(text), ...listed };
    }
  }
  const counts = { promptTokens: promptIds.length, completionTokens: promptIds.length, cachedTokens: 1 };
  for (let choice = n - 1; choice >= 0; choice--)
    yield { type: "finish", choice, reason: "length", ...counts };
};

const engine = (script = shout) => new ScriptedClient(script, { isPrefixLm: false, maxChoices: 4 });

interface Logprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

interface Choice {
  index: number;
  text: string;
  logprobs: Logprobs | null;
  finish_reason: string | null;
  prompt_logprobs?: (Record<string, { logprob: number; rank: number; decoded_token: string }> | null)[];
  prompt_token_ids?: number[];
  token_ids?: number[];
}

interface Answer {
  choices: Choice[];
  usage: object | null;
}

async function ask(body: object, script?: Script): Promise<Answer> {
  const response = await setUp(engine(script)).post(completions, body);
  if (response.status !== 200) throw new Error(await response.text());
  return (await response.json()) as Answer;
}

async function chunksFor(body: object): Promise<Answer[]> {
  return (await chunksOf(await setUp(engine()).post(completions, { ...body, stream: true }))) as Answer[];
}

describe("several prompts", () => {
  const prompt = ["ab", codes("cd"), "e"];
  const expected = ["AB", "AB", "CD", "CD", "E", "E"];
  const usage = {
    prompt_tokens: 5,
    completion_tokens: 10,
    total_tokens: 15,
    prompt_tokens_details: { cached_tokens: 3 },
  };

  test("whole: answers by prompt, n each; the usage counts all", async () => {
    const answer = await ask({ prompt, n: 2 });
    expect(answer.choices.map(({ index, text }) => [index, text])).toEqual([...expected.entries()]);
    expect(answer.usage).toEqual(usage);
  });

  test("streamed: each chunk names its answer, each answer ends once", async () => {
    const chunks = await chunksFor({ prompt, n: 2, stream_options: { include_usage: true } });
    const choices = chunks.flatMap((chunk) => chunk.choices);
    const texts = expected.map((_, index) =>
      choices.map((choice) => (choice.index === index ? choice.text : "")).join(""),
    );
    expect(texts).toEqual(expected);
    const ends = choices.filter(({ finish_reason }) => finish_reason !== null);
    expect(ends.map(({ index }) => index).toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(chunks.at(-1)?.usage).toEqual(usage);
  });

  test("are requests of their own to the engine", async () => {
    const set = setUp(engine());
    await set.post(completions, { prompt, seed: 4 });
    const requests = set.engine.submissions.map(({ request }) => request);
    expect(requests.map(({ id }) => id)).toEqual(["cmpl-2-0", "cmpl-2-1", "cmpl-2-2"]);
    expect(requests.map(({ promptIds }) => promptIds)).toEqual([codes("ab"), codes("cd"), codes("e")]);
    expect(requests.map(({ sampling }) => sampling.seed)).toEqual([4n, 4n, 4n]);
  });

  test.each([false, true])("one that cannot start ends the others: stream %p", async (stream) => {
    const refuseLast: Script = async function* (request, signal) {
      if (request.promptIds.length === 1) throw new QueueFullError("full", 1);
      await aborted(signal);
      yield* shout(request, signal);
    };
    const set = setUp(engine(refuseLast));
    expect((await set.post(completions, { prompt, stream })).status).toBe(429);
    expect(set.engine.submissions.slice(0, 2).map(({ signal }) => signal.aborted)).toEqual([true, true]);
  });

  test("one that fails on its way ends the others, and is told once", async () => {
    const failLast: Script = async function* (request, signal) {
      yield { type: "text", choice: 0, text: "x", tokenIds: [120] };
      if (request.promptIds.length === 1) throw new Error("broken");
      await aborted(signal);
    };
    const set = setUp(engine(failLast));
    const chunks = await chunksOf(await set.post(completions, { prompt, stream: true }));
    expect(chunks.at(-1)).toMatchObject({ error: { code: "internal_error" } });
    expect(chunks.length).toBe(4);
    expect(set.engine.submissions.slice(0, 2).map(({ signal }) => signal.aborted)).toEqual([true, true]);
    expect(set.log.filter(({ type }) => type === "error").length).toBe(1);
  });

  test("a client that leaves ends all", async () => {
    const wait: Script = async function* (_request, signal) {
      yield { type: "text", choice: 0, text: "x", tokenIds: [120] };
      await aborted(signal);
    };
    const set = setUp(engine(wait));
    const response = await set.post(completions, { prompt, stream: true });
    const reader = response.body?.getReader();
    await reader?.read();
    await reader?.cancel();
    await until(() => set.engine.submissions.every(({ signal }) => signal.aborted));
    expect(set.engine.submissions.length).toBe(3);
  });
});

describe("echo", () => {
  test("puts the prompt before each answer: text as it was sent, ids decoded", async () => {
    const { choices } = await ask({ prompt: ["ab", codes("cd")], n: 2, echo: true });
    expect(choices.map(({ text, logprobs }) => [text, logprobs])).toEqual([
      ["abAB", null],
      ["abAB", null],
      ["cdCD", null],
      ["cdCD", null],
    ]);
  });

  const listed: Logprobs = {
    tokens: ["a", "b", "A", "B"],
    token_logprobs: [null, -2, -2, -2],
    top_logprobs: [null, { z: -0.25, b: -2 }, { z: -0.25, A: -2 }, { z: -0.25, B: -2 }],
    text_offset: [0, 1, 2, 3],
  };
  const part = (from: number, to: number): Logprobs => ({
    tokens: listed.tokens.slice(from, to),
    token_logprobs: listed.token_logprobs.slice(from, to),
    top_logprobs: listed.top_logprobs.slice(from, to),
    text_offset: listed.text_offset.slice(from, to),
  });

  test("with log-probabilities has the prompt's too, none of the first token", async () => {
    const { choices } = await ask({ prompt: "ab", echo: true, logprobs: 2 });
    expect(choices[0].logprobs).toEqual(listed);
  });

  test("streamed is a chunk of its own, first", async () => {
    const chunks = await chunksFor({ prompt: "ab", echo: true, logprobs: 2 });
    expect(chunks.map(({ choices: [{ text, logprobs }] }) => [text, logprobs])).toEqual([
      ["ab", part(0, 2)],
      ["A", part(2, 3)],
      ["B", part(3, 4)],
      ["", null],
    ]);
  });

  test("with max_tokens 0 is the prompt alone", async () => {
    const body = { prompt: "ab", echo: true, logprobs: 2, max_tokens: 0, return_token_ids: true };
    const { choices, usage } = await ask(body);
    const end = { finish_reason: "length", prompt_token_ids: codes("ab") };
    expect(choices).toEqual([{ index: 0, text: "ab", logprobs: part(0, 2), token_ids: [], ...end }]);
    expect(usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 0, total_tokens: 2 });
    const stream_options = { include_usage: true, continuous_usage_stats: true };
    const chunks = await chunksFor({ ...body, stream_options });
    expect(chunks.map(({ choices }) => choices.at(0)?.text)).toEqual(["ab", "", undefined]);
    for (const chunk of chunks) expect(chunk.usage).toMatchObject({ completion_tokens: 0 });
    const ends: Script = async function* () {
      yield { type: "prompt", cachedTokens: 0, logprobs: foretold("b") };
      yield { type: "finish", choice: 0, reason: "stop", stop: 7, promptTokens: 2, completionTokens: 1 };
    };
    expect((await ask({ ...body, stop_token_ids: [7] }, ends)).choices).toEqual(choices);
  });

  test("is what max_tokens 0 needs", async () => {
    expect((await refused(completions, { prompt: "a", max_tokens: 0 })).param).toBe("max_tokens");
    expect((await refused(chat, { ...hello, max_tokens: 0 })).param).toBe("max_tokens");
  });

  test("asks the engine for as many as are listed, of the prompt if they are", async () => {
    const set = setUp(engine());
    for (const more of [{ logprobs: 3 }, { logprobs: 0 }, {}, { prompt_logprobs: 5, logprobs: 1 }]) {
      await set.post(completions, { prompt: "ab", echo: true, ...more });
    }
    const asked = set.engine.submissions.map(({ request: { sampling } }) => sampling.promptLogprobs);
    expect(asked).toEqual([3, 0, undefined, 5]);
  });
});

describe("prompt_logprobs", () => {
  const listed = [
    null,
    {
      "122": { logprob: -0.25, rank: 1, decoded_token: "z" },
      "98": { logprob: -2, rank: 2, decoded_token: "b" },
    },
  ];

  test("of a completion are its choices'", async () => {
    const { choices } = await ask({ prompt: ["ab", "c"], prompt_logprobs: 1 });
    expect(choices.map(({ prompt_logprobs }) => prompt_logprobs)).toEqual([listed, [null]]);
    const [{ prompt_logprobs }] = (await ask({ prompt: "ab", prompt_logprobs: 0 })).choices;
    expect(prompt_logprobs?.[1]).toEqual({ "98": { logprob: -2, rank: 2, decoded_token: "b" } });
  });

  test("of a chat are the answer's", async () => {
    const response = await setUp(engine()).post(chat, { ...hello, prompt_logprobs: 1 });
    const { prompt_logprobs: found } = (await response.json()) as { prompt_logprobs: unknown[] };
    expect(found.length).toBe("user:hi;".length);
    expect(found[1]).toMatchObject({ "115": { rank: 2, decoded_token: "s" } });
  });

  test("do not go with a stream", async () => {
    for (const [path, body] of [
      [completions, { prompt: "ab" }],
      [chat, hello],
    ] as const) {
      const error = await refused(path, { ...body, prompt_logprobs: 1, stream: true }, engine());
      expect(error.param).toBe("prompt_logprobs");
    }
  });

  test("are refused inside a bidirectional prefix, by the name of what asks for them", async () => {
    const futures = "each token sees itself and its future";
    const chatError = await refused(chat, { ...hello, prompt_logprobs: 0 });
    expect(chatError).toMatchObject({
      param: "prompt_logprobs",
      message: expect.stringContaining(futures) as unknown,
    });
    for (const [param, more] of [
      ["prompt_logprobs", { prompt_logprobs: 1 }],
      ["prompt_logprobs", { prompt_logprobs: 1, prefix_len: 1 }],
      ["logprobs", { echo: true, logprobs: 1 }],
    ] as const) {
      const error = await refused(completions, { prompt: "ab", ...more });
      expect(error.param).toBe(param);
      expect(error.message).toContain(futures);
    }
    const causal = await setUp().post(completions, { prompt: "ab", prompt_logprobs: 1, prefix_len: 0 });
    expect(causal.status).toBe(200);
    const plain = await setUp().post(completions, { prompt: "ab", echo: true });
    expect(plain.status).toBe(200);
  });
});

describe("return_token_ids", () => {
  const asked = { return_token_ids: true };

  test("of a completion", async () => {
    const { choices } = await ask({ prompt: "ab", n: 2, ...asked });
    for (const choice of choices) {
      expect(choice).toMatchObject({ prompt_token_ids: codes("ab"), token_ids: codes("AB") });
    }
    expect((await ask({ prompt: "ab" })).choices[0]).not.toHaveProperty("token_ids");
  });

  test("streamed: the prompt's first, then as they come", async () => {
    const chunks = await chunksFor({ prompt: "ab", ...asked });
    expect(chunks.map(({ choices: [choice] }) => choice.prompt_token_ids ?? choice.token_ids)).toEqual([
      codes("ab"),
      codes("A"),
      codes("B"),
      [],
    ]);
  });

  test("of a chat", async () => {
    const whole: unknown = await (await setUp(engine()).post(chat, { ...hello, ...asked })).json();
    const choices = [{ token_ids: codes("USER:HI;") }];
    expect(whole).toMatchObject({ prompt_token_ids: codes("user:hi;"), choices });
    const stream = await setUp(engine()).post(chat, { ...hello, ...asked, stream: true });
    const [first, ...rest] = (await chunksOf(stream)) as { choices: { token_ids: number[] }[] }[];
    expect(first).toMatchObject({ prompt_token_ids: codes("user:hi;") });
    expect(rest.flatMap((chunk) => chunk.choices[0].token_ids)).toEqual(codes("USER:HI;"));
  });
});

describe("usage", () => {
  test("counts on in every chunk if asked for", async () => {
    const stream_options = { include_usage: true, continuous_usage_stats: true };
    const counts = (chunks: Answer[]) =>
      chunks.map(({ usage }) => (usage as { completion_tokens: number }).completion_tokens);
    expect(counts(await chunksFor({ prompt: "ab", n: 2, stream_options }))).toEqual([1, 2, 3, 4, 4, 4, 4]);
    const response = await setUp(engine()).post(chat, { ...hello, stream: true, stream_options });
    expect(counts((await chunksOf(response)) as Answer[])).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]);
  });

  test("tells what was cached", async () => {
    const answer: unknown = await (await setUp(engine()).post(chat, hello)).json();
    expect(answer).toMatchObject({ usage: { prompt_tokens_details: { cached_tokens: 1 } } });
  });
});

describe("request_id", () => {
  test("names the answer and the log, and not the engine's request", async () => {
    const set = setUp();
    for (const path of [chat, chat, completions]) {
      const body = path === chat ? hello : { prompt: "a" };
      const response = await set.post(path, { ...body, request_id: "mine" });
      expect(await response.json()).toMatchObject({ id: path === chat ? "chatcmpl-mine" : "cmpl-mine" });
      expect(response.headers.get("x-request-id")).toBe("mine");
    }
    expect(new Set(set.engine.submissions.map(({ request }) => request.id)).size).toBe(3);
    const requests = set.log.filter((entry) => entry.type === "request");
    expect(requests.map(({ requestId }) => requestId)).toEqual(["mine", "mine", "mine"]);
  });
});
