/** The grid of kernels that treat each token on its own: x covers the pieces of a row, y the tokens. */
import type { GpuTraits } from "../gpu.ts";
import { groups } from "../kernel.ts";

/** WebGPU's limit in each dimension; shaders step over the tokens by the size of the grid. */
const workgroupsMax = 65535;

/** Lanes of a workgroup, and workgroups: on a CPU small ones, so that one token already occupies every core. */
export function tokenGrid(traits: GpuTraits, tokens: number, pieces: number) {
  const lanes = traits.isCpu ? 16 : 128;
  const workgroups: [number, number, number] = [groups(pieces, lanes), Math.min(tokens, workgroupsMax), 1];
  return { lanes, workgroups };
}

/** Throws TypeError unless `value` is a multiple of `step`. */
export function checkMultiple(kernel: string, name: string, value: number, step: number): void {
  if (value % step !== 0) {
    throw new TypeError(`Cannot run ${kernel}: expected ${name} to be a multiple of ${step}, got ${value}`);
  }
}

/** A workgroup a row, in two dimensions, of which each may have at most 65535; shaders skip what is too much. */
export function rowGrid(rows: number): [number, number, number] {
  const y = groups(rows, workgroupsMax);
  return [y === 0 ? 0 : groups(rows, y), y, 1];
}
