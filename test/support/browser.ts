/**
 * A headless Chromium, out of npm `@sparticuz/chromium` with the libraries and fonts that come with it, so that a machine
 * needs no browser of its own. Linux x64 only; unpacked once, into the cache folder.
 */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { parseTar } from "nanotar";
import type { Browser } from "playwright-core";
import { cacheFolder } from "../../src/cache-folder.ts";
import { project } from "./shared.ts";

/** Why there is no browser to test with; null if there is one. */
export const noBrowser: string | null =
  "Deno" in globalThis
    ? "playwright-core is run on Bun only"
    : process.platform !== "linux" || process.arch !== "x64"
      ? `the bundled Chromium is for linux-x64, this is ${process.platform}-${process.arch}`
      : null;

/** Nothing but what a test asks for goes over the network, and nothing is kept: playwright makes a profile for each launch. */
const flags = [
  "--no-sandbox",
  "--no-zygote",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--font-render-hinting=none",
];

export async function openBrowser(): Promise<Browser> {
  const [folder, { chromium }] = await Promise.all([unpacked(), import("playwright-core")]);
  return chromium.launch({
    executablePath: join(folder, "chromium"),
    headless: true,
    args: flags,
    env: {
      ...process.env,
      LD_LIBRARY_PATH: join(folder, "lib"),
      FONTCONFIG_FILE: join(folder, "test-fonts.conf"),
    },
    timeout: 60_000,
  });
}

/** Safe against other processes doing the same. */
async function unpacked(): Promise<string> {
  const bin = project("node_modules/@sparticuz/chromium/bin");
  const { version } = createRequire(import.meta.url)("@sparticuz/chromium/package.json") as {
    version: string;
  };
  const folder = join(cacheFolder(), `chromium-${version}`);
  if (existsSync(folder)) return folder;
  await mkdir(dirname(folder), { recursive: true });
  const fresh = await mkdtemp(`${folder}-`);
  const read = async (name: string) => brotliDecompressSync(await readFile(join(bin, name)));
  await writeFile(join(fresh, "chromium"), await read("chromium.br"), { mode: 0o755 });
  for (const archive of ["al2023.tar.br", "fonts.tar.br"]) await untar(await read(archive), fresh);
  await writeFile(join(fresh, "test-fonts.conf"), fontSettings(folder));
  await rename(fresh, folder).catch(() => rm(fresh, { recursive: true })); // another process was first
  return folder;
}

async function untar(archive: Uint8Array, folder: string): Promise<void> {
  for (const { name, data } of parseTar(archive)) {
    if (!data) continue;
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), data, { mode: 0o755 });
  }
}

function fontSettings(folder: string): string {
  const folders = [join(folder, "fonts"), "/usr/share/fonts"].map((path) => `<dir>${path}</dir>`).join("");
  return `<?xml version="1.0"?><fontconfig>${folders}<cachedir>${join(folder, "font-cache")}</cachedir></fontconfig>\n`;
}
