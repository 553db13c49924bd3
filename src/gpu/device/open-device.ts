/**
 * Chooses an adapter and opens the device on it.
 *
 * This folder owns one rule: a device that is handed out computes. An adapter that computes nothing (Dawn's null
 * back end) is refused, a lost device or an uncaptured error surfaces as an error. It does not know any kernel.
 */
import { SetupError } from "../../errors.ts";
import { Gpu, type GpuOptions } from "../gpu.ts";
import { dawnInstance, hasVulkanLoader, pollAtIntervals } from "./dawn.ts";
import { nativeHasRealAdapter, nativeInstance } from "./native.ts";
import { useSoftwareAdapter } from "./software.ts";

export const gpuChoices = ["auto", "dawn", "native", "software"] as const;
export type GpuChoice = (typeof gpuChoices)[number];

export interface OpenDeviceOptions extends GpuOptions {
  /** `auto` takes a real adapter of the runtime's own WebGPU, else of Dawn (on Bun), else the bundled software adapter. */
  choice: GpuChoice;
  /** Keeps validation and robust buffer access on: for tests. Off, a faulty kernel may read outside its buffers. */
  checks: boolean;
}

/** Opens a device. Throws `SetupError` that says what to install or choose when there is none. */
export async function openDevice({ choice, checks, ...options }: OpenDeviceOptions): Promise<Gpu> {
  const { instance, implementation } = await chooseInstance(choice, checks);
  const adapter = await instance.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new SetupError(noAdapterMessage(choice));
  assertComputes(adapter.info);
  if (implementation === "dawn" && !isReal(adapter)) pollAtIntervals();
  return new Gpu(await requestDevice(adapter), adapter.info, implementation, options);
}

/** Throws `SetupError` for an adapter that takes work and does none, as Dawn's null back end. */
export function assertComputes({
  description,
  device,
}: Pick<GPUAdapterInfo, "description" | "device">): void {
  if (/\bnull\b/i.test(`${description} ${device}`)) {
    throw new SetupError(
      `Cannot use the GPU adapter "${description}": it computes nothing. Try --gpu software`,
    );
  }
}

type Implementation = "dawn" | "native";

async function chooseInstance(
  choice: GpuChoice,
  checks: boolean,
): Promise<{ instance: GPU; implementation: Implementation }> {
  const native = nativeInstance();
  const dawn = async () => ({ instance: await dawnInstance(checks), implementation: "dawn" as const });
  switch (choice) {
    case "native":
      if (!native) {
        throw new SetupError(
          "Cannot use --gpu native: this runtime has no navigator.gpu. Try Deno, or --gpu dawn",
        );
      }
      return { instance: native, implementation: "native" };
    case "dawn":
      return dawn();
    case "software":
      await useSoftwareAdapter();
      return native ? { instance: native, implementation: "native" } : dawn();
    case "auto": {
      if (native) {
        if (!(await nativeHasRealAdapter())) await useSoftwareAdapter();
        return { instance: native, implementation: "native" };
      }
      if (await hasVulkanLoader()) {
        const found = await dawn();
        if (isReal(await found.instance.requestAdapter({ powerPreference: "high-performance" })))
          return found;
      }
      await useSoftwareAdapter();
      return dawn();
    }
  }
}

/** True for hardware: neither a CPU rasteriser nor the null back end. */
export function isReal(adapter: GPUAdapter | null): boolean {
  if (!adapter) return false;
  const { info } = adapter;
  return (
    !info.isFallbackAdapter &&
    !/null|llvmpipe|swiftshader|lavapipe/i.test(`${info.description} ${info.device}`)
  );
}

function noAdapterMessage(choice: GpuChoice): string {
  return (
    `Cannot open a GPU (--gpu ${choice}): no adapter was found. Install a Vulkan driver and loader ` +
    `(Debian: libvulkan1 and the vendor's driver, or mesa-vulkan-drivers), or use --gpu software on Linux x64`
  );
}

/** Optional features worth having; asked of `adapter.features`, since requesting an absent one may silently succeed. */
const wantedFeatures = [
  "shader-f16",
  "subgroups",
  "subgroup-size-control",
  "chromium-experimental-subgroup-matrix",
  "timestamp-query",
];

async function requestDevice(adapter: GPUAdapter): Promise<GPUDevice> {
  const requiredFeatures = wantedFeatures.filter((name) => adapter.features.has(name)) as GPUFeatureName[];
  return adapter.requestDevice({ requiredFeatures, requiredLimits: allLimits(adapter.limits) });
}

/** Every limit that bounds compute, at what the adapter has: the defaults are those of a phone. */
function allLimits(limits: GPUSupportedLimits): Record<string, number> {
  const names = [
    "maxBufferSize",
    "maxStorageBufferBindingSize",
    "maxStorageBuffersPerShaderStage",
    "maxComputeWorkgroupStorageSize",
    "maxComputeInvocationsPerWorkgroup",
    "maxComputeWorkgroupSizeX",
    "maxComputeWorkgroupSizeY",
    "maxComputeWorkgroupSizeZ",
    "maxComputeWorkgroupsPerDimension",
  ] as const;
  return Object.fromEntries(names.map((name) => [name, limits[name]]));
}
