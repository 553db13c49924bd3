/**
 * `bun:test` for Deno: the part of its interface that this project's tests use, over node:test and Jest's `expect`.
 * deno.json maps the import; `test.skipIf`, `test.each` and timeouts are the only things node:test spells differently.
 */
import { after, afterEach, before, beforeEach, describe as nodeDescribe, test as nodeTest } from "node:test";
import { expect } from "expect";

type Body = () => unknown;

function run(name: string, body: Body): void {
  void nodeTest(name, async () => {
    await body();
  });
}

function skip(name: string, _body?: Body): void {
  void nodeTest.skip(name, () => {});
}

function each<T>(rows: readonly T[]) {
  return (name: string, body: (...row: T extends readonly unknown[] ? T : [T]) => unknown): void => {
    for (const row of rows) {
      const values = (Array.isArray(row) ? row : [row]) as T extends readonly unknown[] ? T : [T];
      run(format(name, values as readonly unknown[]), () => body(...values));
    }
  };
}

/** `%s`, `%i`, `%d` and `%p` take the row's values in order. */
function format(name: string, values: readonly unknown[]): string {
  let next = 0;
  return name.replace(/%[sidpj]/g, () => {
    const value = values[next++];
    return typeof value === "string" ? value : JSON.stringify(value);
  });
}

const test = Object.assign(run, { each, skip, skipIf: (condition: boolean) => (condition ? skip : run) });
const describe = Object.assign((name: string, body: () => void): void => void nodeDescribe(name, body), {
  each<T>(rows: readonly T[]) {
    return (name: string, body: (row: T) => void): void => {
      for (const row of rows) describe(format(name, [row]), () => body(row));
    };
  },
});

export { after as afterAll, afterEach, before as beforeAll, beforeEach, describe, expect, test, test as it };
export function setDefaultTimeout(_ms: number): void {}
