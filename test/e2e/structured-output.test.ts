/** Structured output on the real engine over HTTP, by OpenAI's own client: what is asked for is what comes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { serveTinyModel, type Served, tinyName } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

let served: Served;
beforeAll(async () => {
  served = await serveTinyModel();
});
afterAll(() => served.close());

const messages = [{ role: "user" as const, content: "Good morning." }];
const common = { model: tinyName, messages, temperature: 0, max_tokens: 80 };

function post(body: object): Promise<Response> {
  return fetch(`${served.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...common, ...body }),
  });
}

async function answerTo(body: object): Promise<{ text: string; reason: string; tokens: number }> {
  const response = await post(body);
  if (response.status !== 200) throw new Error(await response.text());
  const { choices, usage } = (await response.json()) as {
    choices: { message: { content: string }; finish_reason: string }[];
    usage: { completion_tokens: number };
  };
  return {
    text: choices[0].message.content,
    reason: choices[0].finish_reason,
    tokens: usage.completion_tokens,
  };
}

const Greeting = z.object({
  language: z.enum(["en", "de", "fr"]),
  formal: z.boolean(),
  age: z.number().int().min(1).max(99),
  word: z.string().max(4),
});
const schema = z.toJSONSchema(Greeting);

describe("answers", () => {
  test("OpenAI's client parses what its zod helper has asked for", async () => {
    const response_format = zodResponseFormat(Greeting, "greeting");
    const { choices } = await served.openai.chat.completions.parse({ ...common, response_format });
    const { parsed, content } = choices[0].message;
    expect(choices[0].finish_reason).toBe("stop");
    expect(Greeting.parse(JSON.parse(content ?? ""))).toEqual(parsed as z.infer<typeof Greeting>);
  });

  test("in a stream, several at once, each matches", async () => {
    const response_format = {
      type: "json_schema" as const,
      json_schema: { name: "g", schema, strict: true },
    };
    const stream = await served.openai.chat.completions.create({
      ...{ ...common, temperature: 2, seed: 5, n: 2, stream: true, response_format },
    });
    const texts = ["", ""];
    const reasons: (string | null)[] = [];
    for await (const { choices } of stream as AsyncIterable<{
      choices: { index: number; delta: { content?: string | null }; finish_reason: string | null }[];
    }>) {
      for (const { index, delta, finish_reason } of choices) {
        texts[index] += delta.content ?? "";
        if (finish_reason) reasons[index] = finish_reason;
      }
    }
    expect(reasons).toEqual(["stop", "stop"]);
    for (const text of texts) Greeting.parse(JSON.parse(text));
    expect(new Set(texts).size).toBeGreaterThan(1);
  });

  test("match a pattern, a choice, a grammar, and any object", async () => {
    const regex = "\\d{3}-[a-z]{2,4}!";
    expect((await answerTo({ structured_outputs: { regex } })).text).toMatch(new RegExp(`^${regex}$`));
    const choice = ["oui", "non", "peut-être"];
    expect(choice).toContain(
      (await answerTo({ structured_outputs: { choice }, temperature: 3, seed: 2 })).text,
    );
    const grammar = 'root ::= "<" item ("," item)? ">"\nitem ::= [x-z] [0-9]{2}\n';
    expect((await answerTo({ structured_outputs: { grammar } })).text).toMatch(
      /^<[x-z]\d{2}(,[x-z]\d{2})?>$/,
    );
    const { text } = await answerTo({ response_format: { type: "json_object" } });
    expect(typeof JSON.parse(text)).toBe("object");
  });

  test("of a raw prompt too, with penalties, a minimum and log-probabilities", async () => {
    const { choices } = await served.openai.completions.create({
      ...{
        model: tinyName,
        prompt: "one two",
        max_tokens: 40,
        temperature: 1,
        seed: 1,
        logprobs: 1,
        presence_penalty: 1,
      },
      ...{ min_tokens: 2, structured_outputs: { regex: "[a-f]{6}" } },
    });
    expect(choices[0].text).toMatch(/^[a-f]{6}$/);
    expect(choices[0].logprobs?.tokens?.join("")).toBe(choices[0].text);
  });

  test("end by length in the middle of what is asked for", async () => {
    const { text, reason, tokens } = await answerTo({
      structured_outputs: { regex: "[a-z]{200}" },
      max_tokens: 3,
    });
    expect([reason, tokens]).toEqual(["length", 3]);
    expect(text).toMatch(/^[a-z]+$/);
  });
});

describe("what cannot be done", () => {
  test("44 schemas and grammars in a row are refused by what is wrong with them, and the next answer is as ever", async () => {
    const before = await answerTo({});
    const wrong: [object, string][] = [
      [
        {
          response_format: {
            type: "json_schema",
            json_schema: {
              name: "a",
              schema: { type: "object", properties: { tags: { type: "array", uniqueItems: true } } },
            },
          },
        },
        'at properties.tags, expected keywords that can be enforced, got "uniqueItems"',
      ],
      [
        {
          response_format: {
            type: "json_schema",
            json_schema: { name: "a", schema: { type: "number", multipleOf: 3 } },
          },
        },
        '"multipleOf"',
      ],
      [{ structured_outputs: { json: { not: { type: "null" } } } }, '"not"'],
      [{ structured_outputs: { grammar: "root ::= (" } }, "EBNF parser error"],
    ];
    for (let count = 0; count < 44; count++) {
      const [body, reason] = wrong[count % wrong.length];
      const response = await post(body);
      const { error } = (await response.json()) as { error: { message: string; param: string } };
      expect([response.status, error.param]).toEqual([400, Object.keys(body)[0]]);
      expect(error.message).toContain(reason);
    }
    expect(await answerTo({})).toEqual(before);
  });

  test("a grammar that takes long to compile holds up no stream", async () => {
    const slow = post({ structured_outputs: { json: { type: "string", maxLength: 300 } }, max_tokens: 4 });
    let isSlowDone = false;
    const status = slow.then((response) => {
      isSlowDone = true;
      return response.status;
    });
    const stream = await served.openai.chat.completions.create({
      ...{
        ...common,
        stream: true,
        max_tokens: 30,
        ignore_eos: true,
        structured_outputs: { regex: "[a-z ]{400}" },
      },
    });
    let chunksMeanwhile = 0;
    for await (const chunk of stream as AsyncIterable<object>) if (chunk && !isSlowDone) chunksMeanwhile++;
    expect(chunksMeanwhile).toBeGreaterThan(0);
    expect([200, 400]).toContain(await status);
  });
});
