/** The simulation is worth something only if it notices what it is there for. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { plantedFaults } from "./faults.ts";
import { type Faults, simulate } from "./simulation.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

/** A fault that shows in none of so many seeds counts as missed. */
const seedCount = 60;

function failureOf(seed: number, faults: Faults): string | null {
  try {
    simulate(seed, faults);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function firstFailure(plant: () => Faults): { seed: number; message: string } | null {
  for (let seed = 0; seed < seedCount; seed++) {
    const message = failureOf(seed, plant());
    if (message !== null) return { seed, message };
  }
  return null;
}

describe("the simulation notices", () => {
  for (const { name, plant, caughtBy } of plantedFaults) {
    test(name, () => {
      expect(firstFailure(plant)?.message).toMatch(caughtBy);
    });
  }
});

test("a failing seed is named, and fails in the same way again", () => {
  const { plant } = plantedFaults[0];
  const first = firstFailure(plant);
  expect(first?.message).toContain(`SIM_SEED=${first?.seed}`);
  expect(failureOf(first?.seed ?? -1, plant())).toBe(first?.message ?? "");
});

test("the same seeds pass with nothing planted", () => {
  expect(firstFailure(() => ({}))).toBe(null);
});
