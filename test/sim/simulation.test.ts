/** The engine's simulation over many seeds. `SIM_SEED=n` replays one; `bun test/sim/run.ts --seeds n` runs more. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { simulate, type SimulationResult } from "./simulation.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const replayed = process.env.SIM_SEED;
const groupSize = 500;

function sum(seeds: readonly number[]): Record<keyof SimulationResult, number> {
  const results = seeds.map((seed) => simulate(seed));
  const names = Object.keys(results[0]) as (keyof SimulationResult)[];
  const total = (name: keyof SimulationResult) => results.reduce((all, result) => all + result[name], 0);
  return Object.fromEntries(names.map((name) => [name, total(name)])) as Record<
    keyof SimulationResult,
    number
  >;
}

if (replayed !== undefined) {
  test(`seed ${replayed}`, () => {
    simulate(Number(replayed));
  });
} else {
  describe("every answer under load is that of the request alone, and every block is accounted for", () => {
    for (let group = 0; group < 20; group++) {
      const seeds = Array.from({ length: groupSize }, (_, index) => group * groupSize + index);
      test(`seeds ${seeds[0]} to ${seeds[groupSize - 1]}`, () => {
        const total = sum(seeds);
        // What the seeds are meant to reach, they do reach.
        expect(total.requests).toBeGreaterThan(3 * groupSize);
        for (const name of [
          "refused",
          "preemptions",
          "hits",
          "layeredSteps",
          "copies",
          "sharedPrefills",
        ] as const)
          expect(total[name]).toBeGreaterThan(groupSize / 10);
      });
    }

    test("five hundred requests in one run", () => {
      const { requests, refused } = simulate(1, {}, { requests: 500 });
      expect(requests + refused).toBe(500);
    });
  });
}
