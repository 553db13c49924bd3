/** Test data that is given beside the checkout and not copied into it. Absent data is a failure, never a skip. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../shared/", import.meta.url));

/** Absolute path of a folder or file below `../shared`. Throws when it is not there. */
export function shared(path: string): string {
  const found = root + path;
  if (!existsSync(found)) throw new Error(`Cannot read test data: expected ${found} beside the checkout`);
  return found;
}

/** Absolute path below the project's root. */
export function project(path: string): string {
  return fileURLToPath(new URL("../../", import.meta.url)) + path;
}
