/**
 * The whole check, in one command: format, lint, types, tests on Bun, tests on Deno. Ends with one line of totals.
 * `bun scripts/test.ts [bun|deno|static]...` runs a part. A skipped test is printed with its name and counted apart.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

interface Stage {
  name: string;
  part: "static" | "bun" | "deno";
  command: string[];
  /** Totals of a runner's output; without it the stage itself is one check. */
  count?: (output: string) => Totals;
}

const root = fileURLToPath(new URL("../", import.meta.url));
const bin = (name: string) => `${root}node_modules/.bin/${name}`;

const stages: Stage[] = [
  { name: "format", part: "static", command: [bin("prettier"), "--check", "--log-level", "warn", "."] },
  { name: "lint", part: "static", command: [bin("eslint"), "."] },
  { name: "types", part: "static", command: [bin("tsc"), "-p", "."] },
  { name: "types of the page", part: "static", command: [bin("tsc"), "-p", "src/routes/playground/page"] },
  {
    name: "tests on Bun",
    part: "bun",
    command: [bin("bun"), "test", "--timeout", "120000"],
    count: countBun,
  },
  {
    name: "tests on Deno",
    part: "deno",
    command: [bin("deno"), "test", "-A", "--no-check", "--quiet", "test/"],
    count: countDeno,
  },
];

/** Bun ends with lines like " 12 pass". */
function countBun(output: string): Totals {
  const count = (word: string) => Number(new RegExp(`^\\s*(\\d+) ${word}$`, "m").exec(output)?.[1] ?? 0);
  return { passed: count("pass"), failed: count("fail") + count("error"), skipped: count("skip") };
}

/** Deno ends with "ok | 3 passed (40 steps) | 0 failed | 0 ignored (2 steps)"; a file's tests are steps of a group. */
function countDeno(output: string): Totals {
  const line = /\| (\d+) passed.*$/m.exec(stripColours(output))?.[0] ?? "";
  const count = (word: string) => {
    const [, tests, steps] = new RegExp(`(\\d+) ${word}(?: \\((\\d+) steps?\\))?`).exec(line) ?? [];
    return Number(steps ?? tests ?? 0);
  };
  return { passed: count("passed"), failed: count("failed"), skipped: count("ignored") };
}

/** Deno has told its totals, and they are good. */
function isWhole(output: string): boolean {
  return /^ok \| \d+ passed.* \| 0 failed/m.test(stripColours(output));
}

function stripColours(text: string): string {
  return text.replace(/\u001b\[[0-9;]*m/g, "");
}

function run(command: string[]): Promise<{ code: number; signal: string | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command[0], command.slice(1), { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    const collect = (chunk: Buffer) => {
      output += chunk.toString();
      process.stdout.write(chunk);
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code: code ?? 1, signal, output }));
  });
}

async function runStage({ name, command, count }: Stage): Promise<Totals> {
  console.log(`\n== ${name}`);
  const { code, signal, output } = await run(command);
  if (count && signal === "SIGABRT" && isWhole(output)) {
    console.log(
      `== ${name}: the process crashed while it ended, after all tests had passed (docs/log.md: Deno's end)`,
    );
    return count(output);
  }
  const totals = count?.(output) ?? { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0 };
  // A runner that failed without counting a failure (a crash, no tests) is a failure all the same.
  if (code !== 0 && totals.failed === 0) totals.failed = 1;
  if (count && totals.passed === 0) totals.failed ||= 1;
  console.log(`== ${name}: ${summary(totals)}`);
  return totals;
}

function summary({ passed, failed, skipped }: Totals): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

const parts = process.argv.slice(2);
const totals: Totals = { passed: 0, failed: 0, skipped: 0 };
for (const stage of stages) {
  if (parts.length > 0 && !parts.includes(stage.part)) continue;
  const { passed, failed, skipped } = await runStage(stage);
  totals.passed += passed;
  totals.failed += failed;
  totals.skipped += skipped;
}
console.log(`\n${summary(totals)}`);
process.exitCode = totals.failed > 0 ? 1 : 0;
