/** Every example of the documentation does what it says: each is run here, or listed with the test that covers it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Served, serveTinyModel, testAdapter, tinyModel } from "../support/served.ts";
import { project } from "../support/shared.ts";
import { type Example, examplesOf, pages } from "./examples.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

/** What is not run here, and why. */
const covered = new Map([
  ["npm ci && npm start", "test/e2e/cli.test.ts starts it; a clean install is CI's first step"],
  ["npm ci && npm test", "it is what runs this"],
  ["npm start", "test/e2e/cli.test.ts reads what it prints"],
  ["npx prelude serve --model DIR --port 8000", "test/e2e/cli.test.ts serves"],
  ["npx prelude verify DIR", "test/e2e/verify.test.ts takes a minute for it"],
  ["npx prelude tune --model DIR", "test/commands/tune.test.ts: it would write to the cache"],
  [
    "npx prelude bench serve --url http://127.0.0.1:8000 --request-rate 2 --num-prompts 20",
    "it takes 10 s and more: test/commands/bench-serve.test.ts",
  ],
]);

/** What a command without an answer of its own prints, where its comment says so. */
const printed = new Map([['npx prelude generate "What is 47 + 35?"', "82\n"]]);

const isDeno = "Deno" in globalThis;
const all = pages.flatMap(examplesOf);
const toRun = all.filter(({ source }) => !covered.has(source));
const hasCurl = process.env.PATH?.split(":").some((folder) => existsSync(join(folder, "curl"))) ?? false;
let served: Served;

beforeAll(async () => {
  served = await serveTinyModel();
});
afterAll(() => served.close());

test("pages have examples, and all that is listed is still there", () => {
  expect(toRun.length).toBeGreaterThan(8);
  const sources = new Set(all.map(({ source }) => source));
  for (const listed of [...covered.keys(), ...printed.keys()]) expect(sources).toContain(listed);
});

describe("the example at", () => {
  test.each(
    toRun.map(
      (example) => [`${example.place}: ${example.source.split("\n")[0].slice(0, 60)}`, example] as const,
    ),
  )("%s", async (_name, example) => {
    const output = await run(example);
    const expected = example.answer ?? printed.get(example.source);
    if (expected !== undefined) expect(toShape(output)).toEqual(toShape(expected));
    // The answer is not shown: it must be one, and no error.
    else expect([output.trim() === "", /"error":(?!null)/.test(output)]).toEqual([false, false]);
  });
});

/** What an example prints. Addresses are those of the server of this test. */
function run({ kind, source }: Example): Promise<string> {
  const here = source.replaceAll("http://127.0.0.1:8000", served.url);
  if (kind === "program")
    return outputOf(process.execPath, [...(isDeno ? ["run", "-A"] : ["run"]), "-"], here);
  const [, url, rest] = /^curl (?:-N )?(\S+)(.*)$/.exec(here) ?? [];
  if (url !== undefined && !hasCurl) return fetched(url, rest);
  if (url !== undefined) return outputOf("sh", ["-c", `${here} -sS`]);
  const [, words] = /^npx prelude (.*)$/.exec(here) ?? [];
  if (words === undefined) throw new Error(`Cannot run ${source}: expected curl or npx prelude; list it`);
  const runtime = [process.execPath, ...(isDeno ? ["run", "-A", "--no-check"] : []), project("src/cli.ts")];
  return outputOf("sh", ["-c", `"$@" ${words.replaceAll("DIR", tinyModel)}`, "sh", ...runtime]);
}

/** Standard output; throws if the command fails. */
async function outputOf(command: string, words: string[], input = ""): Promise<string> {
  const env = { ...process.env, PRELUDE_GPU: testAdapter, PRELUDE_TUNING: "none" };
  const child = spawn(command, words, { cwd: project(""), env, stdio: "pipe" });
  const [out, err] = [child.stdout, child.stderr].map((stream) => stream.setEncoding("utf8").toArray());
  child.stdin.end(input);
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`expected success, got ${code}: ${(await err).join("")}`);
  return (await out).join("");
}

/** What curl would get, on a machine without curl. */
async function fetched(url: string, rest: string): Promise<string> {
  const [, body] = /-d '([^']*)'/.exec(rest) ?? [];
  const headers = { "content-type": "application/json" };
  return (await fetch(url, { method: body === undefined ? "GET" : "POST", headers, body })).text();
}

/** Ids, times and counts differ from run to run. */
const differs = /^(id|created|created_at|.*_tokens|.*_tokens_details)$/;

/** JSON, or lines of events with JSON, as data that two runs have in common; other text as it is. */
function toShape(text: string): unknown {
  if (text.startsWith("data: "))
    return text
      .trim()
      .split("\n\n")
      .map((line) => toShape(line.slice(6)));
  const parsed = parsedOrNull(text);
  return parsed === null ? text : shapeOf(parsed);
}

function shapeOf(value: unknown): unknown {
  // Rounded in the documentation, and by devices in their own ways.
  if (typeof value === "number" && !Number.isInteger(value)) return value.toFixed(2);
  // Arguments of a call.
  if (typeof value === "string" && value.startsWith("{")) return parsedOrNull(value) ?? value;
  if (Array.isArray(value)) return value.map(shapeOf);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [name, differs.test(name) ? typeof inner : shapeOf(inner)]),
  );
}

function parsedOrNull(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return null;
  }
}
