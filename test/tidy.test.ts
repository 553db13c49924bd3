/** House rules that no linter knows: which folder may import which, and that no file is dead. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { describe, expect, test } from "bun:test";
import { project } from "./support/shared.ts";

const root = project("");
const files = ["src", "test", "bench", "scripts"].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => `${folder}/${name}`),
);
const text = new Map(files.map((file) => [file, readFileSync(join(root, file), "utf8")]));

/** Paths that a file imports, from the project's root; packages by name. */
function importsOf(file: string): string[] {
  const source = text.get(file) ?? "";
  const found = source.matchAll(/(?:from|import\(|import|new URL\()\s*"([^"]+)"/g);
  return [...found].map(([, path]) => (path.startsWith(".") ? normalize(join(dirname(file), path)) : path));
}

function offenders(from: RegExp, forbidden: RegExp): string[] {
  return files
    .filter((file) => from.test(file))
    .flatMap((file) =>
      importsOf(file)
        .filter((path) => forbidden.test(path))
        .map((path) => `${file} -> ${path}`),
    );
}

describe("dependencies go one way: routes -> engine -> gpu -> wgsl", () => {
  test("src/gpu knows no engine and no routes", () => {
    expect(offenders(/^src\/gpu\//, /^src\/(engine|routes|commands|cli)/)).toEqual([]);
  });

  test("src/engine knows no routes", () => {
    expect(offenders(/^src\/engine\//, /^src\/(routes|commands|cli)/)).toEqual([]);
  });

  test("routes know the engine's client interface and nothing below it", () => {
    expect(
      offenders(/^src\/routes\//, /^src\/(gpu|commands|cli|engine\/(?!client\.ts$|errors\.ts$))/),
    ).toEqual([]);
  });

  test("hono is used in routes only", () => {
    expect(offenders(/^src\/(?!routes\/)/, /^hono/)).toEqual([]);
  });

  test("the KV cache and the scheduler know no GPU, no HTTP and no timers", () => {
    expect(
      offenders(/^src\/engine\/(kv-cache|scheduler)\//, /^(src\/gpu|src\/routes|hono|node:timers)/),
    ).toEqual([]);
    const users = files.filter((file) => /^src\/engine\/(kv-cache|scheduler)\//.test(file));
    expect(
      users.filter((file) => /\b(setTimeout|setInterval|Date\.now|GPU[A-Z])/.test(text.get(file) ?? "")),
    ).toEqual([]);
  });

  test("only the composition roots (of the process, of the engine's thread) read arguments, environment, clock and randomness", () => {
    const readers =
      /process\.argv|process\.env|Deno\.env\.get|Date\.now|performance\.now|Math\.random|crypto\.(random|getRandom)/;
    const allowed = new Set([
      "src/cli.ts",
      "src/engine/worker.ts",
      "src/cache-folder.ts",
      "src/gpu/device/software.ts",
    ]);
    const found = files.filter((file) => file.startsWith("src/") && !allowed.has(file));
    expect(found.filter((file) => readers.test(text.get(file) ?? ""))).toEqual([]);
  });
});

test("no file in src is dead", () => {
  // The registry serves the contract test and the benchmark.
  const entries = new Set(["src/cli.ts", "src/gpu/kernels/registry.ts"]);
  const imported = new Set(
    files.flatMap((file) => (file.startsWith("src/") || file.startsWith("bench/") ? importsOf(file) : [])),
  );
  expect(
    files.filter((file) => file.startsWith("src/") && !entries.has(file) && !imported.has(file)),
  ).toEqual([]);
});

test("files are of one noun's size", () => {
  const long = files.filter(
    (file) => file.startsWith("src/") && (text.get(file) ?? "").split("\n").length > 400,
  );
  expect(long).toEqual([]);
});

test("the lock file names no registry", () => {
  const lock = readFileSync(join(root, "package-lock.json"), "utf8");
  expect(lock).not.toMatch(/"resolved":/);
});
