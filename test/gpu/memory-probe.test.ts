import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../../src/gpu/device/open-device.ts";
import { type ProbedDevice, probeMemory } from "../../src/gpu/memory-probe.ts";
import { rejection } from "../support/rejection.ts";
import { testGpu } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
const mebibyte = 2 ** 20;
/** The buffer that the last submissions work on; it is freed itself only later. */
const endBytes = 4;

/** A device with this much memory; like Dawn, it gives destroyed memory back when work submitted afterwards is done. */
class FakeDevice {
  readonly limits: ProbedDevice["limits"];
  readonly queue = {
    submit: (): undefined => {
      this.#freeable = this.#unflushed;
    },
    onSubmittedWorkDone: () => this.#flush(),
  };
  readonly sizes: number[] = [];
  used = 0;
  mostUsed = 0;
  #unflushed = 0;
  /** What was destroyed before the last submission. */
  #freeable = 0;
  readonly #scopes: { filter: GPUErrorFilter; error: GPUError | null }[] = [];
  readonly #memory: number;
  readonly #refusal: GPUErrorFilter;

  constructor(memory: number, bufferMax: number, refusal: GPUErrorFilter = "out-of-memory") {
    this.#memory = memory;
    this.#refusal = refusal;
    this.limits = { maxBufferSize: bufferMax + 64, maxStorageBufferBindingSize: bufferMax };
  }

  createBuffer({ size }: GPUBufferDescriptor): GPUBuffer {
    if (size % 4 !== 0 || size > this.limits.maxStorageBufferBindingSize) this.#raise("validation");
    this.sizes.push(size);
    const fits = this.used + size <= this.#memory;
    if (!fits) this.#raise(this.#refusal);
    this.used += fits ? size : 0;
    this.mostUsed = Math.max(this.mostUsed, this.used);
    let held = fits ? size : 0;
    const destroy = () => {
      this.#unflushed += held;
      held = 0;
    };
    return { size, destroy } as unknown as GPUBuffer;
  }

  pushErrorScope(filter: GPUErrorFilter): undefined {
    this.#scopes.push({ filter, error: null });
  }

  popErrorScope(): Promise<GPUError | null> {
    const scope = this.#scopes.pop();
    return Promise.resolve(scope?.error ?? null);
  }

  get openScopes(): number {
    return this.#scopes.length;
  }

  #raise(filter: GPUErrorFilter): void {
    const scope = this.#scopes.findLast((one) => one.filter === filter);
    if (!scope) throw new Error(`uncaptured ${filter} error`);
    scope.error ??= { message: `fake ${filter}` } as GPUError;
  }

  createCommandEncoder(): GPUCommandEncoder {
    return { clearBuffer: () => {}, finish: () => ({}) } as unknown as GPUCommandEncoder;
  }

  #flush(): Promise<undefined> {
    this.used -= this.#freeable;
    this.#unflushed -= this.#freeable;
    this.#freeable = 0;
    return Promise.resolve(undefined);
  }
}

describe("memory probe on a fake device", () => {
  for (const memory of [0, 15.9, 16, 100, 1023, 1024, 1025, 4096, 139 * 1024 + 333]) {
    test(`finds ${memory} MiB to less than a step, and frees all`, async () => {
      const device = new FakeDevice(memory * mebibyte + endBytes, 2048 * mebibyte - 4);
      const granted = await probeMemory(device);
      expect(granted).toBeLessThanOrEqual(memory * mebibyte);
      expect(granted).toBeGreaterThan((memory - 16) * mebibyte);
      expect(device.used).toBeLessThanOrEqual(endBytes);
      expect(device.openScopes).toBe(0);
      expect(Math.max(...device.sizes)).toBeLessThanOrEqual(2048 * mebibyte - 4);
      expect(device.sizes.length).toBeLessThan(90);
    });
  }

  test("a finer step gives a finer answer", async () => {
    const device = new FakeDevice(1_000_003, 65_536);
    expect(await probeMemory(device, { stepBytesMin: 16 })).toBeGreaterThan(1_000_003 - endBytes - 16);
  });

  test("never holds more than the cap, and reaches it", async () => {
    for (const capBytes of [64 * mebibyte, 100 * mebibyte, 5000 * mebibyte]) {
      const device = new FakeDevice(Infinity, 2048 * mebibyte);
      const granted = await probeMemory(device, { capBytes });
      expect(device.mostUsed).toBeLessThanOrEqual(capBytes + endBytes);
      expect(granted).toBeGreaterThan(capBytes - 16 * mebibyte);
      expect(device.used).toBeLessThanOrEqual(endBytes);
    }
  });

  test("a cap below the smallest step is met in one buffer, a cap of nothing in none", async () => {
    const device = new FakeDevice(Infinity, 2048 * mebibyte);
    expect(await probeMemory(device, { capBytes: 1000 })).toBe(1000);
    expect(await probeMemory(device, { capBytes: 0 })).toBe(0);
    expect(device.sizes).toEqual([endBytes, 1000, endBytes]);
  });

  test("gives up after a bounded number of buffers where memory never ends", async () => {
    const device = new FakeDevice(Infinity, 256 * mebibyte);
    expect(await probeMemory(device)).toBe(640 * 256 * mebibyte);
    expect(device.used).toBeLessThanOrEqual(endBytes);
  });

  test("an internal error is a refusal too", async () => {
    const device = new FakeDevice(100 * mebibyte, 64 * mebibyte, "internal");
    expect(await probeMemory(device)).toBe(96 * mebibyte);
  });

  test("a validation error is our fault: it throws, and all is freed", async () => {
    const device = new FakeDevice(100 * mebibyte, 64 * mebibyte, "validation");
    const error = await rejection(probeMemory(device));
    expect(error.message).toContain("Cannot probe the device's memory with 67108864 bytes: fake validation");
    expect(device.used).toBeLessThanOrEqual(endBytes);
  });
});

describe("memory probe on the adapter", () => {
  test("finds the cap, twice, and leaves the device in working order", async () => {
    const capBytes = 96 * mebibyte;
    expect(await probeMemory(gpu.device, { capBytes })).toBe(capBytes);
    expect(await probeMemory(gpu.device, { capBytes })).toBe(capBytes);
    gpu.assertAlive();
  });
});

test("a device is deterministic only when asked to be", async () => {
  expect(gpu.traits.deterministic).toBe(false);
  const choice = (process.env.PRELUDE_GPU ?? "software") as "software";
  const other = await openDevice({ choice, checks: true, deterministic: true });
  expect(other.traits.deterministic).toBe(true);
  other.close();
});
