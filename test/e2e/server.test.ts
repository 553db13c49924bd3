/** OpenAI's own client, unmodified, against the real engine behind a socket. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import OpenAI from "openai";
import { type Served, serveTinyModel, tinyModel, tinyName as model } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const { APIUserAbortError, BadRequestError, NotFoundError } = OpenAI;

interface Golden {
  prompt: string;
  prompt_ids: number[];
  output_ids: number[];
  output_text: string;
}

const golden = JSON.parse(readFileSync(`${tinyModel}/golden.json`, "utf8")) as Golden[];
const station = golden[0];
/** Its first character comes in two tokens of a byte each. */
const quoted = golden.find(({ output_text }) => output_text.startsWith("« Je n'ai"))!;

const contextTokens = 256;
let served: Served;
let openai: OpenAI;

beforeAll(async () => {
  // The profile counts the steps that the engine runs. Half the model's context is enough and sooner full.
  served = await serveTinyModel({ profile: true, maxModelLen: contextTokens });
  openai = served.openai;
});
afterAll(() => served.close());

const chat = (content: string) => ({ model, messages: [{ role: "user" as const, content }] });
const raw = { model, prompt: station.prompt_ids, max_tokens: 20 };

async function answer(content: string): Promise<string | null> {
  return (await openai.chat.completions.create(chat(content))).choices[0].message.content;
}

type CompletionChoice = OpenAI.CompletionChoice & { token_ids: number[] };

const expectStillServing = async () => expect(await answer(station.prompt)).toBe(station.output_text);

describe("chat", () => {
  test("whole", async () => {
    const { choices, usage, object } = await openai.chat.completions.create(chat(station.prompt));
    expect(object).toBe("chat.completion");
    expect(choices).toHaveLength(1);
    expect(choices[0].message).toMatchObject({ role: "assistant", content: "Où est la gare ?" });
    expect(choices[0].finish_reason).toBe("stop");
    expect(usage).toMatchObject({ prompt_tokens: 12, completion_tokens: 6, total_tokens: 18 });
  });

  test("streamed token by token", async () => {
    const body = { ...chat(station.prompt), stream: true, stream_options: { include_usage: true } } as const;
    const chunks = await Array.fromAsync(await openai.chat.completions.create(body));
    const pieces = chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta.content ?? null));
    expect(pieces).toEqual(["", "Où", " est", " la", " gare", " ?", null]);
    const reasons = chunks.flatMap(({ choices }) => choices.map(({ finish_reason }) => finish_reason));
    expect(reasons).toEqual([null, null, null, null, null, null, "stop"]);
    expect(chunks.at(-1)?.usage).toMatchObject({ prompt_tokens: 12, completion_tokens: 6, total_tokens: 18 });
  });

  test("through the stream helper", async () => {
    const pieces: string[] = [];
    const runner = openai.chat.completions.stream(chat(station.prompt));
    runner.on("content", (piece) => pieces.push(piece));
    const { choices } = await runner.finalChatCompletion();
    expect(pieces.join("")).toBe(station.output_text);
    expect([choices[0].message.content, choices[0].finish_reason]).toEqual([station.output_text, "stop"]);
  });

  test("content parts, and the single turn that this model has", async () => {
    const content = [{ type: "text" as const, text: station.prompt }];
    const messages = [
      { role: "user" as const, content: "What is 1 + 1?" },
      { role: "assistant" as const, content: "2" },
      { role: "user" as const, content },
    ];
    const { choices } = await openai.chat.completions.create({ model, messages });
    expect(choices[0].message.content).toBe(station.output_text);
  });
});

describe("completions", () => {
  test("from token ids, and from the same as text", async () => {
    const fromIds = await openai.completions.create(raw);
    expect([fromIds.choices[0].text, fromIds.choices[0].finish_reason]).toEqual([
      station.output_text,
      "stop",
    ]);
    const prompt = `<|im_start|><|object_ref_start|>${station.prompt}<|im_end|>`;
    const fromText = await openai.completions.create({ ...raw, prompt });
    expect(fromText.choices).toEqual(fromIds.choices);
    expect(fromText.usage).toMatchObject({ prompt_tokens: 12, completion_tokens: 6, total_tokens: 18 });
    // All but the last token, whose logits are wanted.
    expect(fromText.usage).toMatchObject({ prompt_tokens_details: { cached_tokens: 11 } });
  });

  test("what an answer's tokens were worth when they were chosen is what they are worth in a prompt", async () => {
    const causal = { ...raw, prefix_len: 0, logprobs: 1, return_token_ids: true };
    const answer = await openai.completions.create(causal);
    const { token_ids: ids, logprobs } = answer.choices[0] as CompletionChoice;
    const chosen = logprobs?.token_logprobs ?? [];
    const scored = { ...causal, prompt: [...station.prompt_ids, ...ids], echo: true, max_tokens: 0 };
    const { choices, usage } = await openai.completions.create(scored);
    const found = choices[0].logprobs?.token_logprobs?.slice(-ids.length) ?? [];
    expect(chosen.length).toBeGreaterThan(3);
    found.forEach((logprob, index) => expect(logprob).toBeCloseTo(chosen[index], 3));
    expect(found.length).toBe(chosen.length);
    expect([usage?.completion_tokens, choices[0].text.endsWith(answer.choices[0].text)]).toEqual([0, true]);
  });

  test("streamed", async () => {
    const chunks = await Array.fromAsync(await openai.completions.create({ ...raw, stream: true }));
    expect(chunks.map(({ choices }) => choices[0].text)).toEqual(["Où", " est", " la", " gare", " ?", ""]);
  });
});

describe("embeddings", () => {
  const texts = [station.prompt, "Translate to French: Where is the hotel?", "What is 47 + 35?"];
  const cosine = (a: number[], b: number[]) => a.reduce((sum, value, at) => sum + value * b[at], 0);

  test("of like texts are closer than of others; alone or in a batch they are the same", async () => {
    // OpenAI's client asks for base64 and decodes it.
    const { data, usage } = await openai.embeddings.create({ model, input: texts });
    const vectors = data.map(({ embedding }) => embedding);
    expect(vectors.map((vector) => vector.length)).toEqual(texts.map(() => served.engine.model.hiddenSize));
    for (const vector of vectors) expect(cosine(vector, vector)).toBeCloseTo(1, 5);
    expect(cosine(vectors[0], vectors[1])).toBeGreaterThan(cosine(vectors[0], vectors[2]) + 0.05);
    const alone = await openai.embeddings.create({ model, input: texts[0], encoding_format: "float" });
    expect(cosine(alone.data[0].embedding, vectors[0])).toBeCloseTo(1, 5);
    const ids = texts.flatMap((text) => served.engine.text.encodePrompt(text));
    expect(usage).toEqual({ prompt_tokens: ids.length, total_tokens: ids.length });
  });
});

test("two answers of one prompt, the first as if it were alone", async () => {
  const { choices, usage } = await openai.completions.create({ ...raw, n: 2 });
  expect(choices.map(({ index, text }) => [index, text])).toEqual(
    [0, 1].map((index) => [index, station.output_text]),
  );
  expect(usage?.completion_tokens).toBe(2 * station.output_ids.length);
});

describe("where an answer ends", () => {
  test("max_tokens: finish_reason is length", async () => {
    const { choices, usage } = await openai.chat.completions.create({
      ...chat(station.prompt),
      max_completion_tokens: 3,
    });
    expect([choices[0].message.content, choices[0].finish_reason]).toEqual(["Où est la", "length"]);
    expect(usage?.completion_tokens).toBe(3);
  });

  test("a stop string is cut off, wherever tokens end", async () => {
    for (const stop of ["gare", ["x", "t la ga"]]) {
      const { choices } = await openai.chat.completions.create({ ...chat(station.prompt), stop });
      const expected = typeof stop === "string" ? "Où est la " : "Où es";
      expect([choices[0].message.content, choices[0].finish_reason]).toEqual([expected, "stop"]);
    }
    const body = { ...chat(station.prompt), stop: "t la ga", stream: true } as const;
    const chunks = await Array.fromAsync(await openai.chat.completions.create(body));
    expect(chunks.map(({ choices }) => choices[0].delta.content ?? "").join("")).toBe("Où es");
    expect(chunks.at(-1)?.choices[0].finish_reason).toBe("stop");
  });

  test("the context: the last free token is used, and one prompt token more is refused", async () => {
    const prompt = new Array<number>(contextTokens - 1).fill(39);
    const { choices, usage } = await openai.completions.create({ ...raw, prompt });
    expect(choices[0].finish_reason).toBe("length");
    expect(usage?.total_tokens).toBe(contextTokens);

    const error = await failure(openai.completions.create({ ...raw, prompt: [...prompt, 39] }));
    expect(error).toBeInstanceOf(BadRequestError);
    expect([error.status, error.code]).toEqual([400, "context_length_exceeded"]);
    const long = await failure(openai.chat.completions.create(chat("station ".repeat(contextTokens))));
    expect([long.status, long.code]).toEqual([400, "context_length_exceeded"]);
    await expectStillServing();
  });
});

describe("sampling", () => {
  const sample = async (changes: object) => {
    const body = { ...raw, max_tokens: 8, temperature: 1.5, ...changes };
    return (await openai.completions.create(body)).choices[0].text;
  };

  test("a seed gives the same text again, another seed another", async () => {
    const texts: string[] = [];
    for (const seed of [1, 2, 3]) {
      const text = await sample({ seed });
      expect(await sample({ seed })).toBe(text);
      texts.push(text);
    }
    expect(new Set(texts).size).toBeGreaterThan(1);
  });

  test("top_k 1 is greedy at any temperature, and so are a tiny top_p and min_p 1", async () => {
    for (const only of [{ top_k: 1 }, { top_p: 1e-6 }, { min_p: 1 }]) {
      expect(await sample({ ...only, temperature: 5, seed: 4 })).toBe(station.output_text);
    }
  });

  test("a request that says nothing takes the model's default, which is greedy", async () => {
    expect((await openai.completions.create(raw)).choices[0].text).toBe(station.output_text);
  });
});

describe("errors", () => {
  test.each([
    ["a token id outside the vocabulary", { prompt: [6, 8192] }, BadRequestError, "prompt"],
    ["a negative token id", { prompt: [-1] }, BadRequestError, "prompt"],
    ["an empty prompt", { prompt: "" }, BadRequestError, "prompt"],
    ["a prefix beyond the prompt", { prefix_len: 13 }, BadRequestError, "prefix_len"],
    ["a temperature below 0", { temperature: -1 }, BadRequestError, "temperature"],
    ["no tokens at all", { max_tokens: 0 }, BadRequestError, "max_tokens"],
    ["no answers", { n: 0 }, BadRequestError, "n"],
    ["more answers than run at once", { n: 1000 }, BadRequestError, "n"],
    ["an unknown parameter", { min_temperature: 1 }, BadRequestError, "min_temperature"],
    ["another model", { model: "other" }, NotFoundError, "model"],
  ] as const)("%s", async (_name, changes, errorClass, param) => {
    const body = { ...raw, ...changes } as unknown as OpenAI.CompletionCreateParamsNonStreaming;
    for (const stream of [false, true]) {
      const error = await failure(
        openai.completions.create({ ...body, stream } as OpenAI.CompletionCreateParams),
      );
      expect(error).toBeInstanceOf(errorClass);
      expect([error.param, error.type]).toEqual([param, "invalid_request_error"]);
    }
  });

  test("a model that is not there", async () => {
    expect(await failure(openai.models.retrieve("other"))).toBeInstanceOf(NotFoundError);
    expect((await openai.models.list()).data.map(({ id }) => id)).toEqual([model]);
  });

  test("none of them was a failure of the server, which goes on", async () => {
    await expectStillServing();
    expect(served.log.filter((entry) => entry.type === "error")).toEqual([]);
  });
});

describe("text that is more than ASCII", () => {
  test("special tokens spelled in a message are text", async () => {
    const content = `${station.prompt}<|im_end|><|im_start|>`;
    const { usage } = await openai.chat.completions.create({ ...chat(content), max_tokens: 1 });
    expect(usage?.prompt_tokens).toBeGreaterThan(station.prompt_ids.length + 4);
    const ids = served.engine.text.encodeChat([{ role: "user", content }]);
    expect(ids.filter((id) => id === 6 || id === 7)).toEqual([6, 7]);
    await expectStillServing();
  });

  test("a character in two tokens is streamed whole", async () => {
    const stream = await openai.chat.completions.create({ ...chat(quoted.prompt), stream: true });
    const pieces = (await Array.fromAsync(stream)).map(({ choices }) => choices[0].delta.content ?? "");
    expect(pieces.slice(0, 3)).toEqual(["", "«", " Je"]);
    expect(pieces.join("")).toBe(quoted.output_text);
  });

  test("emoji and CJK in a prompt", async () => {
    const content = "Fix: i lik 👩‍👧 and 漢字 very mutch 👋🏽";
    const body = { ...chat(content), max_tokens: 10 };
    const whole = await openai.chat.completions.create(body);
    const stream = await openai.chat.completions.create({ ...body, stream: true });
    const pieces = (await Array.fromAsync(stream)).map(({ choices }) => choices[0].delta.content ?? "");
    expect(pieces.join("")).toBe(whole.choices[0].message.content ?? "");
    expect(pieces.filter((piece) => piece.includes("\ufffd") || !piece.isWellFormed())).toEqual([]);
  });
});

describe("many clients", () => {
  test("each gets its own answer", async () => {
    const asked = golden.slice(0, 8);
    const answers = await Promise.all(
      asked.map(async ({ prompt }, index) => {
        if (index % 2 === 0) return answer(prompt);
        return (await openai.chat.completions.stream(chat(prompt)).finalChatCompletion()).choices[0].message
          .content;
      }),
    );
    expect(answers).toEqual(asked.map(({ output_text }) => output_text));
  });

  // At this temperature all 8192 tokens are equally likely, so nothing but the limit ends the answer.
  const endless = { ...raw, max_tokens: 240, temperature: 100, seed: 11 };

  test("a client that leaves a stream ends its generation", async () => {
    const before = await stepCount();
    const stream = await openai.completions.create({ ...endless, stream: true });
    const chunks = stream[Symbol.asyncIterator]();
    for (let count = 0; count < 3; count++) expect((await chunks.next()).done).toBe(false);
    await chunks.return?.();
    await expectStillServing();
    expect((await stepCount()) - before).toBeLessThan(endless.max_tokens / 2);
  });

  test("a client that leaves before a whole answer ends its generation", async () => {
    const before = await stepCount();
    const leaving = new AbortController();
    const request = failure(openai.completions.create(endless, { signal: leaving.signal }));
    while ((await stepCount()) < before + 3);
    leaving.abort();
    expect(await request).toBeInstanceOf(APIUserAbortError);
    await expectStillServing();
    expect((await stepCount()) - before).toBeLessThan(endless.max_tokens / 2);
  });

  test("a client that leaves the queue is passed over", async () => {
    const before = await stepCount();
    const leaving = new AbortController();
    const requests = [1, 2, 3].map((seed) =>
      failure(openai.completions.create({ ...endless, seed }, { signal: leaving.signal })),
    );
    while ((await stepCount()) < before + 3);
    leaving.abort();
    for (const error of await Promise.all(requests)) expect(error).toBeInstanceOf(APIUserAbortError);
    await expectStillServing();
    expect((await stepCount()) - before).toBeLessThan(endless.max_tokens / 2);
  });

  /** How often the engine has sampled, since the start. */
  async function stepCount(): Promise<number> {
    const rows = await served.engine.profile();
    return rows.find(({ kernel }) => kernel === "sample")?.calls ?? 0;
  }

  test("leaving is no failure of the server", () => {
    expect(served.log.filter((entry) => entry.type === "error")).toEqual([]);
  });
});

async function failure(promise: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof OpenAI.APIError) return error;
  throw new Error(`expected an APIError, got ${String(error)}`);
}
