/** Dawn through npm `webgpu`: WebGPU for Bun. */
import type * as Dawn from "webgpu";
import { SetupError } from "../../errors.ts";
import { DAWN_POLL_INTERVAL_MS } from "../../limits.ts";

const features = [
  "allow_unsafe_apis", // chromium-experimental-subgroup-matrix
  "vulkan_enable_f16_on_nvidia", // shader-f16 on NVIDIA
  "use_vulkan_memory_model",
];
// Robustness cost a subgroup-matrix product a factor of three on an H100.
const uncheckedFeatures = ["disable_robustness", "disable_workgroup_init", "skip_validation"];

/** An instance garbage-collected while its devices live crashes Bun in CallbackTaskManager::Flush: keep all. */
const keep = globalThis as typeof globalThis & { preludeDawnInstances?: GPU[] };

/** A new Dawn instance. `checks` keeps validation and robust buffer access on. */
export async function dawnInstance(checks: boolean): Promise<GPU> {
  const enabled = checks ? features : [...features, ...uncheckedFeatures];
  const { create, globals } = await loadDawn();
  Object.assign(globalThis, globals);
  const instance = create([
    `enable-dawn-features=${enabled.join(",")}`,
    "disable-dawn-features=timestamp_quantization",
  ]);
  (keep.preludeDawnInstances ??= []).push(instance);
  return instance;
}

/**
 * Leaves the cores to a CPU adapter. While a result is awaited, Dawn asks for it in every turn of the event loop: its
 * binding calls the global `setImmediate` for the next turn. That takes a core, of which the adapter's threads have no
 * other (with two cores, products took 1.6 times as long). So the turns of this thread come at intervals; what imports
 * `setImmediate` from `node:timers` is not affected.
 */
export function pollAtIntervals(): void {
  const later = (callback: (...args: unknown[]) => void, ...args: unknown[]) =>
    setTimeout(callback, DAWN_POLL_INTERVAL_MS, ...args);
  globalThis.setImmediate = later as unknown as typeof setImmediate;
}

/**
 * Whether this machine has a Vulkan loader, where Dawn needs one (Linux). Asked first, because Dawn complains on
 * standard error when there is none.
 */
export async function hasVulkanLoader(): Promise<boolean> {
  if (process.platform !== "linux" || !("Bun" in globalThis)) return true;
  const { dlopen } = await import("bun:ffi");
  try {
    dlopen("libvulkan.so.1", { vkCreateInstance: { args: [], returns: "i32" } });
    return true;
  } catch {
    return false;
  }
}

async function loadDawn(): Promise<Pick<typeof Dawn, "create" | "globals">> {
  try {
    return await import("webgpu");
  } catch (error) {
    throw new SetupError(
      `Cannot load Dawn: expected the npm package "webgpu" with a binary for ${process.platform}-${process.arch}, got: ${String(error)}`,
    );
  }
}
