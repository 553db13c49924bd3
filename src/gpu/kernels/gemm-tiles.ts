/** Which tile a product on matrix units is cut into: what was fastest on an H100 for such a shape. */
import type { GpuTraits } from "../gpu.ts";
import { groups } from "../kernel.ts";

/** Sizes of wgsl/gemm.wgsl. */
export interface GemmTile {
  /** Of a workgroup. */
  readonly tokens: number;
  readonly rows: number;
  /** Of a subgroup. */
  readonly partTokens: number;
  readonly partRows: number;
  /** Subgroups that share a part, each with its own columns. */
  readonly split: number;
  /** Columns staged at a time. */
  readonly step: number;
  readonly stages: 1 | 2;
}

const large: GemmTile = {
  tokens: 128,
  rows: 128,
  partTokens: 64,
  partRows: 64,
  split: 1,
  step: 32,
  stages: 2,
};
const medium: GemmTile = {
  tokens: 64,
  rows: 64,
  partTokens: 32,
  partRows: 32,
  split: 1,
  step: 32,
  stages: 2,
};

/** Few tokens: the parts are whole tiles, and the subgroups of a workgroup divide the columns among themselves. */
function skinny(tokens: number, rows: number, split: number, step: number, stages: 1 | 2): GemmTile {
  return { tokens, rows, partTokens: tokens, partRows: rows, split, step, stages };
}

export interface GemmShape {
  tokens: number;
  /** That a workgroup goes through. */
  inputs: number;
  rows: number;
}

/** Workgroups that occupy a large GPU (an H100 has 132 cores). */
const workgroupsWanted = 128;

export function chooseTile(traits: GpuTraits, shape: GemmShape): GemmTile {
  return candidates(traits, shape).find(({ step }) => shape.inputs % step === 0) ?? medium;
}

function candidates({ deterministic }: GpuTraits, { tokens, rows }: GemmShape): GemmTile[] {
  // Every tile without `split` adds up in the same order.
  if (deterministic || tokens > 64) {
    const isLarge = groups(tokens, large.tokens) * groups(rows, large.rows) >= workgroupsWanted;
    return [isLarge ? large : medium];
  }
  const tile = tokens <= 16 ? 16 : tokens <= 32 ? 32 : 64;
  return [skinny(tile, 32, 8, 128, 1)];
}

/**
 * Shares a product of few rows is worth splitting into (`gemm`'s `shares`), where what follows can add them up: so
 * many that all cores of a large GPU have work.
 */
export function gemmShares(traits: GpuTraits, { tokens, inputs, rows }: GemmShape): number {
  if (traits.deterministic) return 1;
  let shares = 1;
  for (;;) {
    const tile = chooseTile(traits, { tokens, inputs: inputs / shares, rows });
    const workgroups = shares * groups(tokens, tile.tokens) * groups(rows, tile.rows);
    const half = inputs / (2 * shares);
    if (workgroups * 2 > 2 * workgroupsWanted || shares === 8 || half % tile.step !== 0) return shares;
    shares *= 2;
  }
}
