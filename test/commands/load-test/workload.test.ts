import { describe, expect, test } from "bun:test";
import {
  createWorkload,
  lengthRange,
  tokensMax,
  type WorkloadOptions,
} from "../../../src/commands/load-test/workload.ts";
import { SetupError } from "../../../src/errors.ts";

const options: WorkloadOptions = {
  promptCount: 200,
  warmupCount: 2,
  seed: 0,
  format: "ids",
  vocabSize: 50,
  inputLength: 10,
  outputLength: 4,
  prefixLength: 0,
  rangeRatio: 0,
};

describe("a workload of ids", () => {
  test("has prompts and answers of the length asked for, within the vocabulary", () => {
    const { prompts, warmups } = createWorkload(options);
    expect([prompts.length, warmups.length]).toEqual([200, 2]);
    const ids = prompts.flatMap(({ content }) => content as number[]);
    expect(ids.length).toBe(2000);
    expect([Math.min(...ids), Math.max(...ids)]).toEqual([0, 49]);
    expect(
      new Set(prompts.map(({ promptTokens, outputTokens }) => `${promptTokens}/${outputTokens}`)),
    ).toEqual(new Set(["10/4"]));
  });

  test("repeats for a seed, and differs for another and from prompt to prompt", () => {
    const { prompts } = createWorkload(options);
    expect(createWorkload(options).prompts).toEqual(prompts);
    expect(createWorkload({ ...options, seed: 1 }).prompts).not.toEqual(prompts);
    expect(new Set(prompts.map(({ content }) => String(content))).size).toBe(200);
  });

  test("varies lengths over the whole range, ends included", () => {
    const { prompts } = createWorkload({ ...options, rangeRatio: 0.25 });
    expect(lengthRange(10, 0.25)).toEqual([7, 13]);
    const lengths = new Set(prompts.map(({ promptTokens }) => promptTokens));
    expect([...lengths].sort((a, b) => a - b)).toEqual([7, 8, 9, 10, 11, 12, 13]);
    const outputs = new Set(prompts.map(({ outputTokens }) => outputTokens));
    expect([...outputs].sort((a, b) => a - b)).toEqual([3, 4, 5]);
    expect(tokensMax({ ...options, rangeRatio: 0.25, prefixLength: 3 })).toBe(3 + 13 + 5);
  });

  test("asks for at least one token", () => {
    const { prompts } = createWorkload({ ...options, outputLength: 1, rangeRatio: 0.5 });
    expect(Math.min(...prompts.map(({ outputTokens }) => outputTokens))).toBe(1);
  });

  test("shares a prefix among the measured prompts only, so that they meet a cold cache", () => {
    const { prompts, warmups } = createWorkload({ ...options, prefixLength: 6 });
    const prefixOf = ({ content }: { content: string | number[] }) =>
      (content as number[]).slice(0, 6).join();
    expect(new Set(prompts.map(prefixOf)).size).toBe(1);
    expect(prefixOf(warmups[0])).toBe(prefixOf(warmups[1]));
    expect(prefixOf(warmups[0])).not.toBe(prefixOf(prompts[0]));
    expect(prompts[0].promptTokens).toBe(16);
  });

  test("with empty prompts is refused", () => {
    expect(() => createWorkload({ ...options, inputLength: 1, rangeRatio: 0.5 })).toThrow(SetupError);
    expect(createWorkload({ ...options, inputLength: 0, prefixLength: 1 }).prompts[0].promptTokens).toBe(1);
  });
});

test("a workload of text has as many words as tokens", () => {
  const { prompts } = createWorkload({ ...options, format: "text", prefixLength: 2 });
  for (const { content, promptTokens } of prompts) {
    expect((content as string).split(" ").length).toBe(promptTokens);
    expect(content).toMatch(/^[a-z]+( [a-z]+){11}$/);
  }
});
