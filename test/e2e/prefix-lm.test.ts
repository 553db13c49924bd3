/**
 * The embedded model's two sides, token by token through the engine: with its prompt read in both directions it does
 * what it was asked to, and with the same weights and a causal mask it does not. A causal model beside it has one side.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { InvalidRequestError } from "../../src/engine/errors.ts";
import type { WorkerEngineClient } from "../../src/engine/worker-client.ts";
import { generate, greedy, type Served, serveTinyModel, startEngine, tinyModel } from "../support/served.ts";
import { shared } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

interface TwoSides {
  prompt: string;
  prompt_ids: number[];
  output_ids: number[];
  output_text: string;
  causal_output_text?: string;
}

const golden = JSON.parse(readFileSync(`${tinyModel}/golden.json`, "utf8")) as TwoSides[];
const twoSides = golden.filter(({ causal_output_text }) => causal_output_text !== undefined);

describe("hrm-text-tiny", () => {
  let served: Served;
  beforeAll(async () => void (served = await serveTinyModel()));
  afterAll(() => served.close());

  test("has both sides of 19 answers, all but two of which differ", () => {
    const differing = twoSides.filter(
      ({ output_text, causal_output_text }) => output_text !== causal_output_text,
    );
    expect([twoSides.length, differing.length]).toEqual([19, 17]);
  });

  test.each(twoSides.map((answer) => [answer.prompt, answer] as const))("%s", async (prompt, answer) => {
    const { engine } = served;
    const promptIds = engine.text.encodeChat([{ role: "user", content: prompt }]);
    expect(promptIds).toEqual(answer.prompt_ids);

    const prefix = await generate(engine, { id: "prefix", promptIds, sampling: greedy });
    expect(prefix.text).toBe(answer.output_text);
    expect(prefix.tokenIds).toEqual(answer.output_ids);
    expect(prefix.finish).toEqual({
      type: "finish",
      choice: 0,
      reason: "stop",
      promptTokens: promptIds.length,
      completionTokens: answer.output_ids.length,
      cachedTokens: 0,
    });

    const causal = await generate(engine, { id: "causal", promptIds, prefixLength: 0, sampling: greedy });
    expect(causal.text).toBe(answer.causal_output_text!);
  });

  test("/v1/completions reads the prompt in both directions unless prefix_len says otherwise", async () => {
    const [{ prompt_ids, output_text, causal_output_text }] = twoSides;
    expect(await complete({ prompt: prompt_ids })).toBe(output_text);
    expect(await complete({ prompt: prompt_ids, prefix_len: prompt_ids.length })).toBe(output_text);
    expect(await complete({ prompt: prompt_ids, prefix_len: 0 })).toBe(causal_output_text!);
  });

  test("/v1/completions with the prompt as text, special tokens and all", async () => {
    const [{ prompt, output_text, causal_output_text }] = twoSides;
    const text = `<|im_start|><|object_ref_start|>${prompt}<|im_end|>`;
    expect(await complete({ prompt: text })).toBe(output_text);
    expect(await complete({ prompt: text, prefix_len: 0 })).toBe(causal_output_text!);
  });

  async function complete(body: { prompt: string | number[]; prefix_len?: number }): Promise<string> {
    const response = await fetch(`${served.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, temperature: 0, max_tokens: 50 }),
    });
    expect(response.status).toBe(200);
    const { choices } = (await response.json()) as { choices: [{ text: string }] };
    return choices[0].text;
  }
});

interface Story {
  prompt: string;
  prompt_ids: number[];
  greedy_ids: number[];
  min_top1_margin: number;
}

describe("tinystories-656k, a causal model", () => {
  const folder = shared("models/tinystories-656k");
  const { cases } = JSON.parse(readFileSync(`${folder}/golden.json`, "utf8")) as { cases: Story[] };
  let engine: WorkerEngineClient;
  beforeAll(async () => void (engine = await startEngine(folder)));
  afterAll(() => engine.close());

  test.each(cases.map((story) => [story.prompt, story] as const))("%s", async (prompt, story) => {
    const { prompt_ids: promptIds, greedy_ids, min_top1_margin } = story;
    // No two candidates are so close that float32 arithmetic in another order could swap them.
    expect(min_top1_margin).toBeGreaterThan(1e-3);
    expect(engine.text.encodePrompt(prompt)).toEqual(promptIds);
    const sampling = { ...greedy, maxTokens: greedy_ids.length };
    const { tokenIds, text, finish } = await generate(engine, { id: prompt, promptIds, sampling });
    expect(tokenIds).toEqual(greedy_ids);
    expect(text).toBe(engine.text.decode([...promptIds, ...greedy_ids]).slice(prompt.length));
    expect([finish.reason, finish.completionTokens]).toEqual(["length", greedy_ids.length]);
  });

  test("a bidirectional prefix is refused", async () => {
    const request = { id: "prefix", promptIds: cases[0].prompt_ids, prefixLength: 1, sampling: greedy };
    const error = await generate(engine, request).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(InvalidRequestError);
    expect((error as Error).message).toBe("Cannot use a prefix of 1 tokens: expected 0 for a causal model");
  });
});
