/** What bench/kernels.ts measures. To add a kernel, write a file of its cases and name it here. */
import { attentionCases } from "./attention-cases.ts";
import { decodeCases } from "./decode-cases.ts";
import type { KernelCase } from "./kernel-case.ts";
import { linearCases } from "./linear-cases.ts";
import { matrixCases } from "./matrix-cases.ts";
import { rowCases } from "./row-cases.ts";
import { stepCases } from "./step-cases.ts";

export const kernelCases: readonly KernelCase[] = [
  ...linearCases,
  ...matrixCases,
  ...attentionCases,
  ...rowCases,
  ...stepCases,
  ...decodeCases,
];
