/** `bun test/sim/run.ts --seeds 10000 [--from 0]`, or `SIM_SEED=n bun test/sim/run.ts` to replay one. */
import { parseArgs } from "node:util";
import { simulate, type SimulationResult } from "./simulation.ts";

const { values } = parseArgs({ options: { seeds: { type: "string" }, from: { type: "string" } } });
const one = process.env.SIM_SEED;
const first = Number(one ?? values.from ?? 0);
const count = one ? 1 : Number(values.seeds ?? 1000);
const totals: Partial<Record<keyof SimulationResult, number>> = {};
let failures = 0;
const startMs = performance.now();
for (let seed = first; seed < first + count; seed++) {
  try {
    const result = simulate(seed);
    for (const [name, value] of Object.entries(result) as [keyof SimulationResult, number][])
      totals[name] = (totals[name] ?? 0) + value;
  } catch (error) {
    failures++;
    if (failures <= 10) console.error(one ? error : String(error));
  }
}
const seconds = (performance.now() - startMs) / 1000;
console.log(`${count - failures} of ${count} seeds passed in ${seconds.toFixed(1)} s:`, totals);
process.exitCode = failures > 0 ? 1 : 0;
