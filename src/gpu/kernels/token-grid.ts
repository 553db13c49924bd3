/** The grid of kernels that treat each token on its own: x covers the pieces of a row, y the tokens. */
import type { GpuTraits } from "../gpu.ts";
import { groups } from "../kernel.ts";

/** WebGPU's limit in each dimension; shaders step over the tokens by the size of the grid. */
const workgroupsMax = 65535;

/** Lanes of a workgroup, and workgroups. On a CPU one costs as much as the work of twenty lanes: few, of many tokens each. */
export function tokenGrid(traits: GpuTraits, tokens: number, pieces: number) {
  const lanes = traits.isCpu ? cpuLanes(pieces) : 128;
  const rows = traits.isCpu ? Math.max(Math.min(tokens, 2), groups(tokens, cpuTokens)) : tokens;
  const workgroups: [number, number, number] = [groups(pieces, lanes), Math.min(rows, workgroupsMax), 1];
  return { lanes, workgroups };
}

/** Tokens that a workgroup on a CPU steps over, where there are more than for two. */
const cpuTokens = 16;

/** A power of two from 16 to 64, since lanes without work cost something too. */
function cpuLanes(pieces: number): number {
  return [16, 32].find((lanes) => pieces <= lanes) ?? 64;
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
