/** Times every dispatch with timestamp queries and sums them up by kernel: ms, GB/s, TFLOP/s. */
import type { Gpu } from "./gpu.ts";
import type { Dispatch } from "./kernel.ts";

const queryCount = 4096; // the most a query set may have

/** Totals of one kernel file. */
export interface KernelProfile {
  kernel: string;
  calls: number;
  milliseconds: number;
  gigabytesPerSecond: number;
  teraflopsPerSecond: number;
}

interface Batch {
  dispatches: Dispatch[];
  times: GPUBuffer;
}

export class Profiler {
  readonly #gpu: Gpu;
  readonly #queries: GPUQuerySet;
  #open: Dispatch[] = [];
  #resolved: Batch[] = [];
  #reads: Promise<void>[] = [];
  readonly #totals = new Map<string, { calls: number; nanoseconds: number; bytes: number; flops: number }>();

  /** Throws when the adapter has no timestamp queries. */
  constructor(gpu: Gpu) {
    if (!gpu.device.features.has("timestamp-query")) {
      throw new Error(`Cannot profile on ${gpu.adapterName}: it has no timestamp queries`);
    }
    this.#gpu = gpu;
    this.#queries = gpu.device.createQuerySet({ type: "timestamp", count: queryCount });
  }

  /** Pass descriptor that puts a timestamp before and after the dispatch. */
  timestampsFor(dispatch: Dispatch, encoder: GPUCommandEncoder): GPUComputePassDescriptor {
    if (this.#open.length * 2 + 2 > queryCount) this.resolve(encoder);
    const at = this.#open.length * 2;
    this.#open.push(dispatch);
    const timestampWrites = {
      querySet: this.#queries,
      beginningOfPassWriteIndex: at,
      endOfPassWriteIndex: at + 1,
    };
    return { timestampWrites };
  }

  /** Copies the open timestamps out; called at the end of a command buffer. */
  resolve(encoder: GPUCommandEncoder): void {
    const dispatches = this.#open;
    if (dispatches.length === 0) return;
    this.#open = [];
    const { device } = this.#gpu;
    const size = dispatches.length * 16;
    const resolved = device.createBuffer({
      size,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const times = device.createBuffer({ size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
    encoder.resolveQuerySet(this.#queries, 0, dispatches.length * 2, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, times, 0, size);
    this.#resolved.push({ dispatches, times });
  }

  afterSubmit(): void {
    const reads = this.#resolved.map((batch) => this.#read(batch));
    // A device that is closed with reads open rejects them: `report` says so, if it is asked for, and nobody else.
    for (const read of reads) read.catch(() => {});
    this.#reads.push(...reads);
    this.#resolved = [];
  }

  /** Totals so far, most time first. */
  async report(): Promise<KernelProfile[]> {
    await Promise.all(this.#reads);
    this.#reads = [];
    const rows = [...this.#totals].map(([kernel, { calls, nanoseconds, bytes, flops }]) => ({
      kernel,
      calls,
      milliseconds: nanoseconds / 1e6,
      gigabytesPerSecond: bytes / nanoseconds,
      teraflopsPerSecond: flops / nanoseconds / 1e3,
    }));
    return rows.sort((a, b) => b.milliseconds - a.milliseconds);
  }

  async #read({ dispatches, times }: Batch): Promise<void> {
    await times.mapAsync(GPUMapMode.READ);
    const stamps = new BigUint64Array(times.getMappedRange().slice(0));
    times.destroy();
    dispatches.forEach(({ file, bytes, flops }, index) => {
      const total = this.#totals.get(file) ?? { calls: 0, nanoseconds: 0, bytes: 0, flops: 0 };
      total.calls += 1;
      total.nanoseconds += Number(stamps[index * 2 + 1] - stamps[index * 2]);
      total.bytes += bytes;
      total.flops += flops;
      this.#totals.set(file, total);
    });
  }
}
