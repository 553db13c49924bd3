import { describe, expect, test } from "bun:test";
import { type Logprobs, logprobsOf } from "../../../src/engine/sampling/logprobs.ts";
import { normals, uniforms } from "../../support/gpu.ts";

/** The definition, by a full sort and a sum over everything. */
function defined(row: Float32Array, chosenId: number, topCount: number): Logprobs {
  const values = Array.from(row, (value) => (Number.isNaN(value) ? -Infinity : value));
  const most = Math.max(...values);
  const logSum = Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0));
  const entry = (id: number, rank: number) => ({ id, logprob: values[id] - most - logSum, rank });
  const order = [...values.keys()].sort((a, b) => values[b] - values[a] || a - b);
  const rank = values.filter((value) => value >= values[chosenId]).length;
  return {
    chosen: entry(chosenId, rank),
    top: order.slice(0, topCount).map((id, index) => entry(id, index + 1)),
  };
}

function expectEqual(actual: Logprobs, wanted: Logprobs): void {
  const all = (one: Logprobs) => [one.chosen, ...one.top];
  expect(all(actual).map(({ id, rank }) => [id, rank])).toEqual(
    all(wanted).map(({ id, rank }) => [id, rank]),
  );
  all(actual).forEach(({ logprob }, index) => {
    const expected = all(wanted)[index].logprob;
    if (expected === -Infinity) expect(logprob).toBe(-Infinity);
    else expect(Math.abs(logprob - expected)).toBeLessThan(1e-11 * Math.max(1, Math.abs(expected)));
  });
}

describe("logprobs", () => {
  for (const [vocab, scale] of [
    [1, 1],
    [2, 1],
    [37, 3],
    [1001, 10],
    [5000, 0.001],
  ]) {
    test(`match the definition, vocabulary ${vocab}, scale ${scale}`, () => {
      const row = Float32Array.from(normals(vocab, vocab, scale));
      const random = uniforms(vocab);
      for (const topCount of [0, 1, 2, 5, 20, vocab, vocab + 3]) {
        const chosen = Math.floor(random() * vocab);
        expectEqual(logprobsOf(row, chosen, topCount), defined(row, chosen, topCount));
      }
    });
  }

  test("many ties: the lowest ids are on top, and the chosen one has the worst rank of its tie", () => {
    const random = uniforms(2);
    for (let round = 0; round < 200; round++) {
      const row = Float32Array.from({ length: 40 }, () => Math.floor(random() * 4));
      const chosen = Math.floor(random() * 40);
      const topCount = Math.floor(random() * 41);
      expectEqual(logprobsOf(row, chosen, topCount), defined(row, chosen, topCount));
    }
    expect(logprobsOf(Float32Array.of(1, 1, 1, 0), 0, 2).chosen.rank).toBe(3);
  });

  test("huge logits neither overflow nor vanish", () => {
    const { chosen, top } = logprobsOf(Float32Array.of(3e38, 3e38, -3e38, 0), 1, 3);
    expect(chosen.logprob).toBeCloseTo(-Math.LN2, 12);
    expect(top.map(({ id }) => id)).toEqual([0, 1, 3]);
    expect(top[2].logprob).toBeLessThan(-2e38);
    const far = logprobsOf(Float32Array.of(1000, 1000 - 50), 1, 0).chosen;
    expect(far).toEqual({ id: 1, logprob: -50, rank: 2 });
  });

  test("NaN and infinities", () => {
    const row = Float32Array.of(NaN, 0, -Infinity, 0, NaN);
    const { top } = logprobsOf(row, 1, 5);
    expect(top.map(({ id }) => id)).toEqual([1, 3, 0, 2, 4]);
    expect(top.map(({ logprob }) => logprob)).toEqual([
      -Math.LN2,
      -Math.LN2,
      -Infinity,
      -Infinity,
      -Infinity,
    ]);
    expect(logprobsOf(row, 2, 0).chosen).toEqual({ id: 2, logprob: -Infinity, rank: 5 });
    expect(logprobsOf(row, 0, 0).chosen).toEqual({ id: 0, logprob: -Infinity, rank: 5 });
    const infinite = logprobsOf(Float32Array.of(1, Infinity, Infinity), 0, 1);
    expect(infinite.chosen.logprob).toBe(-Infinity);
    expect(infinite.top[0].logprob).toBeCloseTo(-Math.LN2, 12);
    for (const nothing of [NaN, -Infinity]) {
      const { chosen } = logprobsOf(new Float32Array(3).fill(nothing), 1, 1);
      expect(chosen.logprob).toBe(-Infinity);
    }
  });

  test("the sum over a large flat vocabulary keeps its digits", () => {
    const vocab = 262_144;
    const row = new Float32Array(vocab).fill(-35);
    row[1000] = 0;
    const sum = 1 + (vocab - 1) * Math.exp(-35);
    const { chosen, top } = logprobsOf(row, vocab - 1, 3);
    expect(top.map(({ id }) => id)).toEqual([1000, 0, 1]);
    expect(chosen.rank).toBe(vocab);
    expect(Math.abs(top[0].logprob + Math.log(sum))).toBeLessThan(1e-11);
  });

  test("an id outside the row is refused", () => {
    expect(() => logprobsOf(new Float32Array(4), 4, 1)).toThrow(
      "Cannot find token 4: expected an id below 4",
    );
  });
});
