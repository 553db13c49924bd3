import { describe, expect, test } from "bun:test";
import {
  allowedMask,
  noPenalties,
  Penalties,
  type PenaltyParams,
} from "../../../src/engine/sampling/penalties.ts";
import { ADJUSTMENT_WORDS, FORBIDDEN_LOGIT } from "../../../src/gpu/kernels/adjust-logits.ts";
import { normals, uniforms } from "../../support/gpu.ts";

const vocab = 12;

/** What `adjust-logits` does with the entries, in float64. Throws if two of them name one token. */
function applied(logits: readonly number[], entries: Uint32Array): number[] {
  const result = [...logits];
  const seen = new Set<number>();
  for (let at = 0; at < entries.length; at += ADJUSTMENT_WORDS) {
    const token = entries[at];
    const [bias, penalty, addition] = new Float32Array(entries.slice(at + 1, at + 4).buffer);
    if (seen.has(token) || token >= vocab) throw new Error(`token ${token} is there twice or does not exist`);
    seen.add(token);
    const biased = logits[token] + bias;
    const value = (biased > 0 ? biased / penalty : biased * penalty) + addition;
    result[token] = addition === FORBIDDEN_LOGIT ? FORBIDDEN_LOGIT : value;
  }
  return result;
}

interface Known {
  promptIds: readonly number[];
  outputIds: readonly number[];
  /** Default: all are known. */
  generated?: number;
}

function after(params: Partial<PenaltyParams>, known: Known, logits: readonly number[]): number[] {
  const { promptIds, outputIds, generated = outputIds.length } = known;
  const penalties = new Penalties({ ...noPenalties, ...params }, promptIds);
  return applied(logits, penalties.entries(outputIds, generated));
}

/** The definition, a token at a time, in vLLM's order. */
function defined(
  params: PenaltyParams,
  { promptIds, outputIds, generated }: Required<Known>,
  logits: number[],
) {
  return logits.map((logit, token) => {
    const times = outputIds.filter((id) => id === token).length;
    let value = logit + (params.logitBias.get(token) ?? 0);
    if (times > 0 || promptIds.includes(token)) {
      value = value > 0 ? value / params.repetition : value * params.repetition;
    }
    value -= params.frequency * times;
    if (times > 0) value -= params.presence;
    const isStop = generated < params.minTokens && params.stopIds.includes(token);
    const isBad = params.badWords.some((word) => word.at(-1) === token && tailIs(outputIds, word));
    return isStop || isBad ? FORBIDDEN_LOGIT : value;
  });
}

function tailIs(outputIds: readonly number[], word: readonly number[]): boolean {
  const tail = word.length > 1 ? outputIds.slice(-(word.length - 1)) : [];
  return JSON.stringify(tail) === JSON.stringify(word.slice(0, -1));
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((value, token) => {
    if (expected[token] === FORBIDDEN_LOGIT) expect(value).toBe(FORBIDDEN_LOGIT);
    // Parameters are rounded to float32, and logits here are below 20.
    else expect(Math.abs(value - expected[token])).toBeLessThan(1e-5);
  });
}

const logits = [...normals(5, vocab, 3)];
const even = Array.from({ length: vocab }, (_, token) => (token % 2 === 0 ? 2 : -2));

describe("single penalties", () => {
  const known = { promptIds: [0, 1, 1, 2], outputIds: [2, 3, 3, 3] };

  test("presence is subtracted once, from tokens of the output only", () => {
    expect(after({ presence: 0.5 }, known, even).slice(0, 5)).toEqual([2, -2, 1.5, -2.5, 2]);
  });

  test("frequency is subtracted for each occurrence in the output", () => {
    expect(after({ frequency: 0.5 }, known, even).slice(0, 5)).toEqual([2, -2, 1.5, -3.5, 2]);
  });

  test("negative ones encourage", () => {
    expect(after({ presence: -1, frequency: -0.5 }, known, even).slice(0, 5)).toEqual([2, -2, 3.5, 0.5, 2]);
  });

  test("repetition divides positive and multiplies negative logits of prompt and output", () => {
    expect(after({ repetition: 2 }, known, even).slice(0, 6)).toEqual([1, -4, 1, -4, 2, -2]);
    expect(after({ repetition: 0.5 }, known, even).slice(0, 6)).toEqual([4, -1, 4, -1, 2, -2]);
  });

  test("a bias comes before the repetition penalty, the others after", () => {
    const params = {
      logitBias: new Map([
        [1, 4],
        [3, 1],
      ]),
      repetition: 2,
      presence: 1,
      frequency: 0.25,
    };
    expect(after(params, known, even).slice(0, 5)).toEqual([1, 1, -0.25, -3.75, 2]);
  });

  test("stop ids are banned until enough tokens are generated, known or not", () => {
    const params = { minTokens: 3, stopIds: [4, 7] };
    for (const generated of [0, 1, 2, 3, 4]) {
      const result = after(params, { promptIds: [], outputIds: [], generated }, even);
      const banned = [...result.keys()].filter((token) => result[token] === FORBIDDEN_LOGIT);
      expect(banned).toEqual(generated < 3 ? [4, 7] : []);
    }
  });

  test("a ban outdoes every other wish", () => {
    const params = {
      minTokens: 9,
      stopIds: [3],
      logitBias: new Map([[3, 100]]),
      presence: -5,
      repetition: 0.1,
    };
    expect(after(params, known, even)[3]).toBe(FORBIDDEN_LOGIT);
  });
});

describe("bad words", () => {
  const bannedAfter = (badWords: number[][], outputIds: number[], promptIds: number[] = []) => {
    const result = after({ badWords }, { promptIds, outputIds }, even);
    return [...result.keys()].filter((token) => result[token] === FORBIDDEN_LOGIT);
  };

  test.each([
    [[[5]], [], [5]],
    [[[5]], [1, 5], [5]],
    [[[1, 2, 3]], [], []],
    [[[1, 2, 3]], [2], []],
    [[[1, 2, 3]], [1], []],
    [[[1, 2, 3]], [1, 2], [3]],
    [[[1, 2, 3]], [9, 1, 2], [3]],
    [[[1, 2, 3]], [1, 2, 9], []],
    [[[1, 1, 1]], [1, 1], [1]],
    [
      [[1, 2, 3], [2, 4], [2], [8, 2, 5]],
      [1, 2],
      [2, 3, 4],
    ],
    [
      [
        [1, 2, 3],
        [4, 2, 3],
      ],
      [1, 2],
      [3],
    ],
  ] as [number[][], number[], number[]][])("%j after %j bans %j", (words, outputIds, wanted) => {
    expect(bannedAfter(words, outputIds)).toEqual(wanted);
  });

  test("the prompt's end is not looked at", () => {
    expect(bannedAfter([[1, 2]], [], [1])).toEqual([]);
  });

  test("one of no tokens is refused", () => {
    expect(() => bannedAfter([[1], []], [])).toThrow(
      "Cannot forbid a word: expected at least one token, got none",
    );
  });
});

describe("needsKnownIds", () => {
  test.each([
    [{}, false],
    [{ presence: 0.1 }, true],
    [{ frequency: -0.1 }, true],
    [{ repetition: 1.1 }, true],
    [{ badWords: [[1]] }, false],
    [{ badWords: [[1], [1, 2]] }, true],
    [{ minTokens: 5, stopIds: [1], logitBias: new Map([[1, 1]]) }, false],
  ] as [Partial<PenaltyParams>, boolean][])("%j: %p", (params, wanted) => {
    expect(new Penalties({ ...noPenalties, ...params }, [1]).needsKnownIds).toBe(wanted);
  });

  test("an id that is pending is refused where it matters, and so is an output that shrinks or is too long", () => {
    const counting = new Penalties({ ...noPenalties, presence: 1 }, []);
    expect(() => counting.entries([1], 2)).toThrow(
      "Cannot apply penalties after 2 tokens: expected from 2 to 2 known ids, got 1",
    );
    counting.entries([1, 2], 2);
    expect(() => counting.entries([1], 1)).toThrow("expected from 2 to 1 known ids, got 1");
    const free = new Penalties(noPenalties, []);
    expect(free.entries([1], 3).length).toBe(0);
    expect(() => free.entries([1, 2], 1)).toThrow("got 2");
    expect(() => free.entries([], 1)).toThrow("expected from 1 to 1 known ids, got 0");
  });
});

test("nothing wanted makes no entries, whatever was generated", () => {
  const penalties = new Penalties({ ...noPenalties, minTokens: 2, stopIds: [1] }, [1, 2, 3]);
  expect(penalties.entries([4, 4, 5], 3).length).toBe(0);
});

test("random requests, followed token by token or caught up with at once, match the definition", () => {
  const random = uniforms(11);
  const below = (count: number) => Math.floor(random() * count);
  const ids = (most: number) => Array.from({ length: below(most + 1) }, () => below(vocab));
  const sometimes = <T>(value: T, otherwise: T) => (random() < 0.5 ? value : otherwise);
  for (let round = 0; round < 400; round++) {
    const params: PenaltyParams = {
      presence: sometimes(4 * random() - 2, 0),
      frequency: sometimes(4 * random() - 2, 0),
      repetition: sometimes(0.5 + random(), 1),
      logitBias: new Map(sometimes(ids(5), []).map((id) => [id, 10 * random() - 5])),
      minTokens: sometimes(below(8), 0),
      stopIds: ids(3),
      badWords: sometimes(
        Array.from({ length: below(6) }, () => [...ids(2), below(vocab)]),
        [],
      ),
    };
    const promptIds = ids(6);
    const outputIds: number[] = [];
    const following = new Penalties(params, promptIds);
    for (let generated = 0; generated < 8; generated++) {
      const wanted = defined(params, { promptIds, outputIds, generated }, logits);
      expectClose(applied(logits, following.entries(outputIds, generated)), wanted);
      const fresh = new Penalties(params, promptIds);
      expectClose(applied(logits, fresh.entries([...outputIds], generated)), wanted);
      outputIds.push(below(4)); // few ids, so that they repeat and complete words
    }
  }
});

describe("allowed tokens as a mask", () => {
  test("has exactly their bits", () => {
    for (const size of [1, 31, 32, 33, 100]) {
      const ids = [0, 31, 32, 63, 64, 99].filter((id) => id < size);
      const mask = allowedMask([...ids, ...ids], size);
      expect(mask.length).toBe(Math.ceil(size / 32));
      const set = Array.from({ length: 32 * mask.length }, (_, id) => id);
      expect(set.filter((id) => (mask[id >>> 5] >>> (id & 31)) & 1)).toEqual(ids);
    }
  });

  test("refuses an id outside the vocabulary", () => {
    expect(() => allowedMask([100], 100)).toThrow("Cannot allow token 100: expected an id below 100");
    expect(() => allowedMask([-1], 100)).toThrow("Cannot allow token -1");
  });
});
