/** Whose ids are fed when: a scripted runner that keeps ids in place of keys and values. */
import { describe, expect, test } from "bun:test";
import type { Runner } from "../../../src/engine/runner.ts";
import { rectangleRows } from "../../../src/engine/step-plan.ts";
import type { VerifyCase } from "../../../src/engine/verify/cases.ts";
import { exact } from "../../../src/engine/verify/tolerance.ts";
import { verify } from "../../../src/engine/verify/verify.ts";

const letters = ".abcdefgh";
const idsOf = (text: string) => [...text].map((letter) => letters.indexOf(letter));
const textOf = (ids: readonly number[]) => ids.map((id) => letters[id]).join("");
const blockSize = 4;

/** Continues every text by the longest of the rules that it ends with. */
function scriptedRunner(rules: Record<string, string>) {
  const cache: number[] = [];
  const next = (text: string) => {
    const endings = Object.keys(rules).filter((ending) => text.endsWith(ending));
    return rules[endings.sort((a, b) => b.length - a.length)[0]] ?? ".";
  };
  const runner: Pick<Runner, "run" | "limits"> & { steps: number } = {
    steps: 0,
    limits: { tokens: 64, sequences: 4, rows: 16, blocksPerSequence: 4, blockSize },
    run({ main }) {
      this.steps++;
      const rows = main.flatMap((rectangle) => {
        const { tokenIds, start, tables } = rectangle;
        const slot = (position: number) =>
          tables[0][Math.floor(position / blockSize)] * blockSize + (position % blockSize);
        tokenIds.forEach((id, index) => (cache[slot(start + index)] = id));
        const end = start + tokenIds.length;
        const text = textOf(Array.from({ length: end }, (_, position) => cache[slot(position)]));
        return Array.from({ length: rectangleRows(rectangle) }, () =>
          idsOf(letters).map((id) => (letters[id] === next(text) ? 8 : 0)),
        );
      });
      const unwanted = () => Promise.reject(new Error("Cannot read: expected logits only"));
      const logits = () => Promise.resolve(Float32Array.from(rows.flat()));
      return { logits, sampled: unwanted, promptLogits: unwanted, stateSums: unwanted };
    },
  };
  return runner;
}

function answered(prompt: string, greedy: string, right: string | null): VerifyCase {
  return {
    name: prompt,
    group: "golden",
    promptIds: idsOf(prompt),
    prefixLength: 0,
    greedyIds: idsOf(greedy),
    promptLogits: null,
    decodeLogits: null,
    logprobs: null,
    firstLogits: null,
    right: right === null ? null : { text: right, isGreedy: `${right}.` === greedy },
  };
}

function run(cases: readonly VerifyCase[], rules: Record<string, string>, tokensMax = 8) {
  return runOn(scriptedRunner(rules), cases, tokensMax);
}

function runOn(runner: Pick<Runner, "run" | "limits">, cases: readonly VerifyCase[], tokensMax = 8) {
  return verify(cases, {
    runner,
    blockCount: 40,
    groupCount: 1,
    vocabSize: letters.length,
    tolerance: exact,
    answers: { stopIds: [0], decode: textOf, tokensMax },
  });
}

describe("own answers", () => {
  const rules = { a: "b", ab: "c", abc: "d", abd: "e", abde: "f", abdef: "g" };

  test("one that is the greedy one needs no step of its own", async () => {
    const runner = scriptedRunner(rules);
    const [result] = await runOn(runner, [answered("a", "bcd.", "bcd")]);
    expect(result).toMatchObject({ greedy: { matched: 4 }, exactMatch: { own: 1, golden: 1, all: 1 } });
    expect(runner.steps).toBe(4);
  });

  test("one goes its own way from its first other id on, whatever was fed before", async () => {
    // Fed, the greedy ids are "bdefg": the second is not the engine's, those behind it are.
    const [result] = await run([answered("a", "bdefg.", "bcd")], rules);
    expect(result).toMatchObject({
      greedy: { matched: 5, all: 6 },
      exactMatch: { own: 1, golden: 0, all: 1 },
    });
  });

  test("many at once, each for itself, those without a right answer left alone", async () => {
    const cases = [
      answered("a", "bdefg.", "bcd"),
      answered("a", "c.", null),
      answered("abd", "e.", "efg"),
      answered("abd", "efg.", "efg"),
      answered("ab", "cd.", "cb"),
      answered("gab", "d.", "cd"),
    ];
    const results = await run(cases, rules);
    expect(results.map(({ exactMatch }) => exactMatch.own)).toEqual([1, 0, 1, 1, 0, 1]);
    expect(results.map(({ exactMatch }) => exactMatch.all)).toEqual([1, 0, 1, 1, 1, 1]);
  });

  test("one without an end is wrong, though what is there of it were right", async () => {
    const endless = { a: "b", b: "a" };
    const [result] = await run([answered("a", "b.", "bababab")], endless, 7);
    expect(result.exactMatch).toEqual({ own: 0, golden: 0, both: 0, all: 1 });
    const [ended] = await run([answered("a", "b.", "bababa")], { ...endless, abababa: "." }, 7);
    expect(ended.exactMatch.own).toBe(1);
  });
});
