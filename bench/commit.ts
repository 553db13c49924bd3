/** The commit that is measured. */
import { execFileSync } from "node:child_process";

export function commit(): string | null {
  try {
    const options = {
      cwd: new URL("..", import.meta.url),
      encoding: "utf8" as const,
      stdio: "pipe" as const,
    };
    return execFileSync("git", ["rev-parse", "--short", "HEAD"], options).trim();
  } catch {
    return null; // not a checkout
  }
}
