/** Where this program keeps what it can make again. */
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

/** By the XDG rules; a user without a home gets the folder of temporary files. */
export function cacheFolder(): string {
  const base = process.env.XDG_CACHE_HOME ?? (homedir() === "/" ? tmpdir() : join(homedir(), ".cache"));
  return join(base, "prelude");
}
