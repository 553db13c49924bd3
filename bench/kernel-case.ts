/** What a kernel's benchmark case is. */
import type { Gpu, GpuTraits } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import type { Tensor } from "../src/gpu/tensor.ts";

export interface KernelCase {
  /** "<kernel> <shape>"; --filter looks in it. */
  name: string;
  /** The class of adapter it is meant for. */
  on: "cpu" | "gpu";
  /** What else the adapter must have; left out: nothing. */
  needs?(traits: GpuTraits): boolean;
  build(gpu: Gpu): BuiltCase;
}

export interface BuiltCase {
  /** The same work over different memory, so that a repetition does not find its operands in the cache. */
  dispatches: Dispatch[];
  /** f32 or f16, readable; every dispatch writes it whole. */
  output: Tensor;
  /** An element of the output in float64. */
  expected(index: number): number;
  /** Largest error allowed, relative to the root mean square of the elements looked at. */
  tolerance: number;
}
