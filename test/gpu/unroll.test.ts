import { readdirSync } from "node:fs";
import { describe, expect, test } from "bun:test";
import { readWgsl } from "../../src/gpu/pipelines.ts";
import { unroll } from "../../src/gpu/unroll.ts";
import { project } from "../support/shared.ts";

describe("unroll", () => {
  test("writes a loop out, with numbers for its variable", () => {
    const source = `fn f() {
  for (var i = 0u; i < 2; i++) { // unroll
    a[i] = i * limit.x;
  }
  b();
}`;
    expect(unroll(source)).toBe(`fn f() {
{
    a[0u] = 0u * limit.x;
  }
{
    a[1u] = 1u * limit.x;
  }
  b();
}`);
  });

  test("takes the count from a const, and writes out the loops inside", () => {
    const source = `const ROWS: u32 = 2u;
for (var i = 0u; i < ROWS; i++) { // unroll
  for (var j = 0u; j < 3u; j++) { // unroll
    if (i > j) { s[i][j] = i; }
  }
}`;
    const statements = [...unroll(source).matchAll(/if \((\du) > (\du)\) \{ s\[\1\]\[\2\] = \1; \}/g)];
    expect(statements.map(([, i, j]) => `${i}${j}`)).toEqual([
      "0u0u",
      "0u1u",
      "0u2u",
      "1u0u",
      "1u1u",
      "1u2u",
    ]);
    expect(unroll(source)).not.toContain("for");
  });

  test("leaves other loops alone", () => {
    const source = "for (var i = 0u; i < 2; i++) { x[i] = 1; }";
    expect(unroll(source)).toBe(source);
  });

  test("refuses a count that is not a number, and a block without an end", () => {
    const loop = "for (var i = 0u; i < N; i++) { // unroll\n";
    const message = "Cannot unroll a loop to N: expected a const that is a number";
    expect(() => unroll(`const N: u32 = 2 * M;\n${loop}}`)).toThrow(message);
    expect(() => unroll(`const N: u32 = 2;\n${loop}{}`)).toThrow("expected a closing brace, got the end");
  });

  test("leaves no mark in any kernel", () => {
    for (const file of readdirSync(project("wgsl"))) {
      expect(unroll(readWgsl(file.replace(/\.wgsl$/, "")))).not.toContain("// unroll");
    }
  });
});
