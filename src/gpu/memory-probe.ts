/**
 * How much memory a device grants. WebGPU does not tell, so it is found by allocating.
 *
 * A driver may grant what it does not have (software adapters and some integrated GPUs hand out memory lazily), hence
 * the cap; a refusal arrives as an out-of-memory error of the error scope and does no harm to the device.
 */

/** What the probe uses of a GPUDevice. */
export type ProbedDevice = Pick<
  GPUDevice,
  "createBuffer" | "createCommandEncoder" | "pushErrorScope" | "popErrorScope"
> & {
  readonly limits: Pick<GPUSupportedLimits, "maxBufferSize" | "maxStorageBufferBindingSize">;
  readonly queue: Pick<GPUQueue, "submit" | "onSubmittedWorkDone">;
};

export interface ProbeOptions {
  /** Stops here. On a CPU adapter the memory is the machine's: keep it small. Default: no cap. */
  capBytes?: number;
  /** The smallest buffer tried: the precision of the answer. Default 16 MiB. */
  stepBytesMin?: number;
}

/** Enough for 1 TiB in buffers of 2 GiB, the refused ones included. */
const ALLOCATIONS_MAX = 640;
const STEP_BYTES_MIN = 16 * 1024 * 1024;

/**
 * How many bytes can be allocated now, beside what is allocated already, in buffers of the sizes the device allows;
 * everything is freed again. Takes the largest buffers first and halves their size at every refusal, so the answer is
 * short of the truth by less than `stepBytesMin`, plus what the driver loses to alignment.
 */
export async function probeMemory(device: ProbedDevice, options: ProbeOptions = {}): Promise<number> {
  const { capBytes = Infinity, stepBytesMin = STEP_BYTES_MIN } = options;
  const least = Math.max(4, Math.min(stepBytesMin, capBytes));
  const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
  // What is submitted at the end works on it; there may be no room for it by then.
  const marker = await allocate(device, 4);
  if (!marker) return 0;
  const held: GPUBuffer[] = [];
  let granted = 0;
  let step = wholeWords(Math.min(maxBufferSize, maxStorageBufferBindingSize, capBytes));
  try {
    for (let tries = 0; tries < ALLOCATIONS_MAX && step >= least; tries++) {
      const buffer = await allocate(device, step);
      if (buffer) held.push(buffer);
      granted += buffer ? step : 0;
      step = wholeWords(Math.min(buffer ? step : lesser(step, least), capBytes - granted));
    }
  } finally {
    for (const buffer of held) buffer.destroy();
    await settle(device, marker);
    marker.destroy();
  }
  return granted;
}

/**
 * Waits until destroyed buffers have given their memory back. Dawn frees them when work submitted *after* their
 * destruction is done: without it an H100 refused the KV cache right after a probe, as if the probe still held all.
 */
async function settle(device: ProbedDevice, marker: GPUBuffer): Promise<void> {
  for (let round = 0; round < 2; round++) {
    const encoder = device.createCommandEncoder();
    encoder.clearBuffer(marker);
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
  }
}

/** Null when the device refuses. Scopes nest: what is no lack of memory is a fault of ours. */
async function allocate(device: ProbedDevice, size: number): Promise<GPUBuffer | null> {
  device.pushErrorScope("validation");
  device.pushErrorScope("internal");
  device.pushErrorScope("out-of-memory");
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({ label: "memory-probe", size, usage });
  const [lack, internal, fault] = await Promise.all([
    device.popErrorScope(),
    device.popErrorScope(),
    device.popErrorScope(),
  ]);
  if (!lack && !internal && !fault) return buffer;
  buffer.destroy();
  if (fault) throw new Error(`Cannot probe the device's memory with ${size} bytes: ${fault.message}`);
  return null;
}

/** Half a step; the smallest one before it ends. */
function lesser(step: number, least: number): number {
  return step > least ? Math.max(step / 2, least) : 0;
}

/** Sizes of buffers are multiples of 4. */
function wholeWords(bytes: number): number {
  return Math.floor(bytes / 4) * 4;
}
