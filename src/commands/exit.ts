/** Ends the process for good. */
import process from "node:process";

interface DenoFfi {
  dlopen(
    path: string,
    symbols: Record<"_exit", { parameters: ["i32"]; result: "void" }>,
  ): { symbols: { _exit(code: number): void } };
}

/**
 * Exits once what was written has left. An ordinary exit runs the native libraries' last rites, in which Deno with the
 * software adapter crashes now and then (heap corruption, exit code 134): there the process ends without them.
 */
export async function exit(code: number): Promise<never> {
  await Promise.all([process.stdout, process.stderr].map(flushed));
  const { Deno } = globalThis as { Deno?: DenoFfi };
  if (Deno && process.platform === "linux") {
    Deno.dlopen("libc.so.6", { _exit: { parameters: ["i32"], result: "void" } }).symbols._exit(code);
  }
  // Dawn keeps threads that would keep the process; every command has closed what it opened by now.
  process.exit(code);
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    stream.write("", () => resolve());
  });
}
