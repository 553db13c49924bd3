/** An open device, what it can do, and whether it still works. Owned by whoever opened it. */
import { PipelineCache } from "./pipelines.ts";
import type { Tuning } from "./tuning.ts";

/** What kernels choose their variant by. */
export interface GpuTraits {
  /** A CPU that rasterises: barriers and workgroup reductions are slow, there are few lanes. */
  readonly isCpu: boolean;
  readonly hasF16: boolean;
  readonly hasSubgroups: boolean;
  /** Matrix units as wgsl/gemm.wgsl wants them: see `hasMatrices`. */
  readonly hasSubgroupMatrix: boolean;
  /** A workgroup's barriers meet by their number, whatever place each subgroup is at: known of NVIDIA's GPUs. */
  readonly countsBarriers: boolean;
  /** Fewest and most lanes a subgroup has; kernels that shuffle need the fewest to be known. */
  readonly subgroupMinSize: number;
  readonly subgroupMaxSize: number;
  /** Most lanes of a workgroup. */
  readonly workgroupLanesMax: number;
  /** Most memory of a workgroup. */
  readonly workgroupBytesMax: number;
  /** Workgroups of `decodePass` that are known to run at once; without, it is not used. */
  readonly residentWorkgroups?: number;
  /** Asked for: kernels must use variants whose result for a token does not depend on what else is in the batch. */
  readonly deterministic: boolean;
  /** What is known to be faster here than the kernels' defaults. */
  readonly tuning?: Tuning;
}

/** Choices of whoever opens a device. */
export interface GpuOptions {
  /** Default false. */
  deterministic?: boolean;
  /** Kernels made for a GPU or for a CPU, whatever the adapter is: for testing either on any machine. Default: by adapter. */
  kernelsFor?: "gpu" | "cpu";
}

/** The device was lost or reported an error: what it computed since cannot be trusted. */
export class DeviceLostError extends Error {
  override name = "DeviceLostError";
}

export class Gpu {
  readonly device: GPUDevice;
  readonly implementation: "dawn" | "native";
  readonly adapterName: string;
  /** All that the adapter says of itself, its driver included where the runtime tells. */
  readonly adapterId: string;
  readonly pipelines: PipelineCache;
  #traits: GpuTraits;
  #failure: DeviceLostError | null = null;
  #closing = false;

  constructor(
    device: GPUDevice,
    info: GPUAdapterInfo,
    implementation: "dawn" | "native",
    { deterministic = false, kernelsFor }: GpuOptions = {},
  ) {
    this.device = device;
    this.implementation = implementation;
    this.adapterName = nameOf(info);
    const { vendor, architecture, device: name, description } = info;
    this.adapterId = [vendor, architecture, name, description].filter(Boolean).join(" | ");
    const traits = traitsOf(device, info, this.adapterName);
    this.#traits = { ...traits, isCpu: kernelsFor ? kernelsFor === "cpu" : traits.isCpu, deterministic };
    this.pipelines = new PipelineCache(device);
    device.addEventListener("uncapturederror", (event) => this.fail(event.error.message));
    void device.lost.then((lost) => this.fail(`device lost (${lost.reason}): ${lost.message}`));
  }

  get traits(): GpuTraits {
    return this.#traits;
  }

  /** Takes effect on dispatches that are made from now on. */
  useTuning(tuning: Tuning): void {
    this.#traits = { ...this.#traits, tuning };
  }

  /** So many workgroups of `decodePass` run at once; undefined: it is not to be used. Takes effect likewise. */
  useResidentWorkgroups(residentWorkgroups: number | undefined): void {
    this.#traits = { ...this.#traits, residentWorkgroups };
  }

  /** One line for people: adapter, features used, what is missing. */
  describe(): string {
    const { hasF16, hasSubgroups, hasSubgroupMatrix, isCpu } = this.traits;
    const all = { "shader-f16": hasF16, subgroups: hasSubgroups, "subgroup-matrix": hasSubgroupMatrix };
    const names = (wanted: boolean) =>
      Object.entries(all).flatMap(([name, has]) => (has === wanted ? [name] : []));
    const uses = names(true).join(", ") || "no optional features";
    const lacks = names(false).join(", ");
    const kind = isCpu ? "software adapter" : "GPU";
    return `${kind} ${this.adapterName} through ${this.implementation}: ${uses}${lacks ? `; without ${lacks}` : ""}`;
  }

  get failure(): DeviceLostError | null {
    return this.#failure;
  }

  /** Throws if the device was lost or an error went uncaptured: results since then are not to be used. */
  assertAlive(): void {
    if (this.#failure) throw this.#failure;
  }

  /** Notes a failure, unless the device was closed on purpose; returns the error to throw: the first there was. */
  fail(message: string): DeviceLostError {
    const error = new DeviceLostError(`Cannot go on: ${message}`);
    if (!this.#closing) this.#failure ??= error;
    return this.#failure ?? error;
  }

  close(): void {
    this.#closing = true;
    this.device.destroy();
  }
}

const softwareNames = /swiftshader|llvmpipe|lavapipe/i;

/** Of hardware the device and its driver, which Dawn gives as `device` and `description`. */
function nameOf({ vendor, architecture, device, description }: GPUAdapterInfo): string {
  if (!description || softwareNames.test(description))
    return description || `${vendor} ${architecture}`.trim() || "unnamed adapter";
  return device ? `${device}, ${description}` : description;
}

function traitsOf(device: GPUDevice, info: GPUAdapterInfo, name: string): Omit<GpuTraits, "deterministic"> {
  const has = (feature: string) => device.features.has(feature);
  return {
    isCpu: Boolean(info.isFallbackAdapter) || softwareNames.test(name),
    hasF16: has("shader-f16"),
    hasSubgroups: has("subgroups"),
    hasSubgroupMatrix: hasMatrices(device, info),
    countsBarriers: /nvidia/i.test(name),
    subgroupMinSize: info.subgroupMinSize ?? 4,
    subgroupMaxSize: info.subgroupMaxSize ?? 128,
    workgroupLanesMax: device.limits.maxComputeInvocationsPerWorkgroup,
    workgroupBytesMax: device.limits.maxComputeWorkgroupStorageSize,
  };
}

/** What Dawn adds to an adapter's info. */
interface MatrixInfo extends GPUAdapterInfo {
  readonly subgroupMatrixConfigs?: readonly {
    componentType: string;
    resultComponentType: string;
    M: number;
    N: number;
    K: number;
  }[];
}

/** 16 x 16 x 16 products of f16 with f32 sums, in subgroups of 32 lanes, with 48 KiB of workgroup memory to stage them. */
function hasMatrices({ features, limits }: GPUDevice, info: MatrixInfo): boolean {
  const { subgroupMinSize, subgroupMaxSize, subgroupMatrixConfigs = [] } = info;
  return (
    features.has("shader-f16") &&
    features.has("chromium-experimental-subgroup-matrix") &&
    subgroupMinSize === 32 &&
    subgroupMaxSize === 32 &&
    limits.maxComputeWorkgroupStorageSize >= 48 * 1024 &&
    subgroupMatrixConfigs.some(
      ({ componentType, resultComponentType, M, N, K }) =>
        componentType === "f16" && resultComponentType === "f32" && M === 16 && N === 16 && K === 16,
    )
  );
}
