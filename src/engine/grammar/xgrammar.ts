/**
 * Loads xgrammar's WebAssembly build.
 *
 * The package calls itself a module but is a UMD script, which Deno cannot import; so it is run here as the CommonJS
 * module that it is. What it has to say goes to the console just before it aborts, and nowhere else: `said` keeps that.
 * To be used in a thread of its own, which can be ended: a text that it cannot parse aborts the instance, and compiling
 * is synchronous and may take for ever.
 */
import type * as XGrammarModule from "@mlc-ai/web-xgrammar";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { compileFunction, constants } from "node:vm";
import { GRAMMAR_MEMORY_BYTES_MAX } from "../../limits.ts";

export type XGrammar = typeof XGrammarModule;

const pageBytes = 65536;

/** The library, and the lines it has written since the last call of `said`. Changes this thread's console for good. */
export function loadXGrammar(): { library: XGrammar; said: () => string[] } {
  const lines: string[] = [];
  const keep = (...parts: unknown[]) => void lines.push(parts.map(String).join(" "));
  Object.assign(console, { log: keep, warn: keep, error: keep });
  limitMemory(GRAMMAR_MEMORY_BYTES_MAX);
  const path = createRequire(import.meta.url).resolve("@mlc-ai/web-xgrammar");
  const module = { exports: {} };
  const run = compileFunction(readFileSync(path, "utf8"), ["exports", "module", "require", "__filename"], {
    filename: path,
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  }) as (...names: unknown[]) => void;
  run(module.exports, module, createRequire(path), path);
  return { library: module.exports as XGrammar, said: () => lines.splice(0) };
}

/** Makes every WebAssembly memory of this thread stop growing there, which its owner takes for a lack of memory. */
function limitMemory(bytesMax: number): void {
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its own `this` below
  const { grow } = WebAssembly.Memory.prototype;
  WebAssembly.Memory.prototype.grow = function (pages: number): number {
    if (this.buffer.byteLength + pages * pageBytes > bytesMax)
      throw new RangeError(
        `Cannot grow a memory by ${pages} pages: expected at most ${bytesMax} bytes in all`,
      );
    return grow.call(this, pages);
  };
}
