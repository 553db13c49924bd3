/** All kernels, for the contract test and the benchmark. */
import type { KernelSpec } from "../kernel.ts";
import { rmsNormSpec } from "./rms-norm.ts";

export const kernelSpecs: readonly KernelSpec[] = [rmsNormSpec];
