import type { Gpu } from "../gpu.ts";
import { type Dispatch, type KernelSpec, matchTensors, tensor } from "../kernel.ts";
import { ReadbackRing } from "../readback.ts";
import { Recorder } from "../recorder.ts";
import { createTensor, type Tensor } from "../tensor.ts";

export const rendezvousSpec: KernelSpec = {
  name: "rendezvous",
  files: ["rendezvous"],
  params: { patience: "u32" },
  tensors: { result: tensor("read_write", "u32", "4") },
};

export interface RendezvousOptions {
  /** u32 [4], zeroed; [1] is how many workgroups ran at once. */
  result: Tensor;
  /** More than can run at once. */
  workgroups: number;
  /** Lanes and bytes of memory of each. */
  lanes: number;
  bytes: number;
  /** Looks around before the first to come has seen enough. */
  patience: number;
}

/** Counts how many workgroups the device runs at once. */
export function rendezvous({ result, workgroups, lanes, bytes, patience }: RendezvousOptions): Dispatch {
  matchTensors(rendezvousSpec, { result });
  return {
    spec: rendezvousSpec,
    file: "rendezvous",
    constants: { LANES: lanes },
    replace: { BYTES: String(bytes) },
    tensors: { result },
    params: { patience },
    workgroups: [workgroups, 1, 1],
    bytes: 0,
    flops: 0,
  };
}

/** More than any device is known to run at once. */
const workgroupsMax = 4096;
/** Two milliseconds on an H100. */
const patience = 3000;

/**
 * How many workgroups of so many lanes and bytes of memory run at once on this device: what a kernel may count on whose
 * workgroups wait for each other. A kernel with many registers may find less room: rehearse it.
 */
export async function countResident(
  gpu: Gpu,
  { lanes, bytes }: Pick<RendezvousOptions, "lanes" | "bytes">,
): Promise<number> {
  const result = createTensor(gpu.device, { name: "rendezvous", dtype: "u32", shape: [4], readable: true });
  const dispatch = rendezvous({ result, workgroups: workgroupsMax, lanes, bytes, patience });
  await gpu.pipelines.compile([dispatch]);
  const recorder = new Recorder(gpu);
  recorder.add(dispatch);
  const read = new ReadbackRing(gpu).request(recorder, result);
  recorder.submit();
  const [, counted] = new Uint32Array(await read());
  result.buffer.gpu.destroy();
  return counted;
}
