/** The GPU that the kernels' defaults were measured on, an H100: WebGPU does not tell these of the one at hand. */

/** Multiprocessors: workgroups that run at once where each takes most of one. */
export const cores = 132;
