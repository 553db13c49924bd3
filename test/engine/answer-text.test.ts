/** What of an answer's ids becomes its text: special tokens and what ended it, if they are asked for. */
import { describe, expect, test } from "bun:test";
import { AnswerText } from "../../src/engine/answer-text.ts";
import type { GenerationEvent, SamplingParams } from "../../src/engine/client.ts";
import { createTextCodec } from "../../src/engine/text/codec.ts";
import { greedy, tinyModel } from "../support/served.ts";

const codec = createTextCodec(tinyModel, "hrm_text");
const special = codec.tokenizer.idOf("<|im_start|>") ?? -1;
const eos = codec.tokenizer.idOf("<|im_end|>") ?? -1;
const words = codec.tokenizer.encodeText(" the station of the city");

function answer(ids: readonly number[], changes: Partial<SamplingParams>): string {
  const request = { id: "a", promptIds: [words[0]], sampling: { ...greedy, ...changes } };
  const { showSpecialTokens = false } = changes;
  const detokenizer = codec.newDetokenizer(request.promptIds, { skipSpecialTokens: !showSpecialTokens });
  const text = new AnswerText(0, detokenizer, { request, eosTokenIds: [eos] });
  const events: GenerationEvent[] = [];
  for (const id of ids) if (!text.isFinished) events.push(...text.tokens({ ids: [id] }));
  if (!text.isFinished) events.push(...text.end("stop"));
  return events.map((event) => (event.type === "text" ? event.text : "")).join("");
}

const said = codec.decode(words);
const last = words.at(-1) as number;
const before = said.slice(0, said.length - codec.decode([last]).length);

describe("special tokens", () => {
  const ids = [...words.slice(0, 2), special, ...words.slice(2), eos];

  test("are left out", () => expect(answer(ids, {})).toBe(said));

  test("are spelled if asked for, but for the one that ended the answer", () => {
    const spelled = codec.decode(ids.slice(0, -1), { skipSpecialTokens: false });
    expect(spelled).toContain("<|im_start|>");
    expect(answer(ids, { showSpecialTokens: true })).toBe(spelled);
    expect(answer(ids, { showSpecialTokens: true, includeStop: true })).toBe(`${spelled}<|im_end|>`);
  });

  test("the model's end is one like others where it ends nothing", () => {
    const changes = { showSpecialTokens: true, ignoreEos: true };
    expect(answer([eos, ...words], changes)).toBe(`<|im_end|>${said}`);
  });
});

describe("what ended the answer", () => {
  test.each([
    [{ stop: [said.slice(-3)] }, said.slice(0, -3)],
    [{ stop: [said.slice(-3)], includeStop: true }, said],
    [{ stopTokenIds: [last] }, before],
    [{ stopTokenIds: [last], includeStop: true }, said],
  ])("%j", (changes, expected) => {
    expect(before.length).toBeLessThan(said.length);
    expect(answer(words, changes)).toBe(expected);
  });

  test("a stop string that is only complete at the end is part of the text too", () => {
    // A part of a character is given out as U+FFFD when nothing more comes.
    const [partOf] = codec.tokenizer.encodeText("👩");
    expect(answer([partOf], { stop: ["\ufffd"] })).toBe("");
    expect(answer([partOf], { stop: ["\ufffd"], includeStop: true })).toBe("\ufffd");
  });
});
