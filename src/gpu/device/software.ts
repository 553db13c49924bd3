/**
 * The bundled software adapter: SwiftShader, with a Vulkan loader of its own, out of npm `@sparticuz/chromium`.
 * Works on a Linux x64 machine that has no GPU, no driver and no loader.
 */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { parseTar } from "nanotar";
import { cacheFolder } from "../../cache-folder.ts";
import { SetupError } from "../../errors.ts";

const packageName = "@sparticuz/chromium";
const wanted = ["libvk_swiftshader.so", "libvulkan.so.1", "vk_swiftshader_icd.json"];

/** Makes SwiftShader the only Vulkan driver this process sees. Must run before the WebGPU instance is made. */
export async function useSoftwareAdapter(): Promise<void> {
  const folder = await unpacked();
  const icd = join(folder, "vk_swiftshader_icd.json");
  const loader = join(folder, "libvulkan.so.1");
  if ("Deno" in globalThis) openOnDeno(icd, loader);
  else await openOnBun(icd, loader);
}

/** The folder with the driver, unpacked on first use. Safe against other processes doing the same. */
async function unpacked(): Promise<string> {
  const archive = findArchive();
  const folder = join(cacheFolder(), `swiftshader-${archive.version}`);
  if (wanted.every((name) => existsSync(join(folder, name)))) return folder;
  await mkdir(dirname(folder), { recursive: true });
  const fresh = await mkdtemp(`${folder}-`);
  for (const entry of parseTar(brotliDecompressSync(await readFile(archive.path)))) {
    const name = basename(entry.name);
    if (wanted.includes(name) && entry.data) await writeFile(join(fresh, name), entry.data, { mode: 0o755 });
  }
  await rename(fresh, folder).catch(() => rm(fresh, { recursive: true })); // another process was first
  return folder;
}

function findArchive(): { path: string; version: string } {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new SetupError(
      `Cannot use the bundled software GPU: it is built for linux-x64, this is ${process.platform}-${process.arch}. Use a GPU (--gpu auto)`,
    );
  }
  const require = createRequire(import.meta.url);
  for (const base of require.resolve.paths(packageName) ?? []) {
    const path = join(base, packageName, "bin", "swiftshader.tar.br");
    if (!existsSync(path)) continue;
    const { version } = require(join(base, packageName, "package.json")) as { version: string };
    return { path, version };
  }
  throw new SetupError(
    `Cannot find the bundled software GPU: expected the npm package "${packageName}". Run npm ci, or use a GPU`,
  );
}

interface DenoFfi {
  env: { set(name: string, value: string): void };
  dlopen(path: string, symbols: Record<string, { parameters: []; result: "i32" }>): unknown;
}

function openOnDeno(icd: string, loader: string): void {
  const { Deno } = globalThis as unknown as { Deno: DenoFfi };
  Deno.env.set("VK_DRIVER_FILES", icd);
  Deno.dlopen(loader, { vkCreateInstance: { parameters: [], result: "i32" } });
}

/** The loader reads the C environment, which an assignment to `process.env` does not reach on Bun. */
async function openOnBun(icd: string, loader: string): Promise<void> {
  const { dlopen } = await import("bun:ffi");
  const libc = dlopen("libc.so.6", { setenv: { args: ["cstring", "cstring", "i32"], returns: "i32" } });
  libc.symbols.setenv(cString("VK_DRIVER_FILES"), cString(icd), 1);
  dlopen(loader, { vkCreateInstance: { args: [], returns: "i32" } });
}

function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}
