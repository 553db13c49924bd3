/**
 * How the lanes of the decoding products are shared out: a team of lanes strides over the inputs of a few rows of the
 * weight, a few teams are a workgroup.
 */
import type { GpuTraits } from "../gpu.ts";
import { groups } from "../kernel.ts";

export interface Teams {
  /** Teams of a workgroup. */
  count: number;
  /** Lanes of a team, a multiple of the subgroup's size. */
  lanes: number;
  /** Rows of the weight a team has at a time. */
  rows: number;
}

interface Product {
  tokens: number;
  /** Rows of the weight. */
  rows: number;
  inputs: number;
  /** What the rows of a team are a multiple of. */
  rowsStep: number;
}

/** Fewer rows than this leave cores of a large GPU without work unless many lanes share a row. */
const manyRows = 3072;
const longInputs = 4096;
const groupLanes = 256;

/** What was fastest on an H100 (docs/log.md): lanes of a team, and rows that one team of them reads at a time. */
export function chooseTeams(traits: GpuTraits, product: Product): Teams {
  const [wanted, rows] = lanesAndRows(product);
  const lanes = Math.max(wanted, traits.subgroupMaxSize);
  return {
    count: Math.max(1, Math.floor(groupLanes / lanes)),
    lanes,
    rows: Math.max(product.rowsStep, rows),
  };
}

function lanesAndRows({ tokens, rows, inputs, rowsStep }: Product): [lanes: number, rows: number] {
  const isLong = inputs >= longInputs;
  if (rows < manyRows) return tokens > 2 ? [128, 2] : isLong ? [256, 2] : [128, 1];
  if (tokens > 1) return [rowsStep > 2 ? 64 : 32, tokens > 2 ? 2 : 1];
  return [isLong ? 128 : 64, 2];
}

/** The consts that all files with teams have. */
export function teamConsts(
  traits: GpuTraits,
  { count, lanes, rows }: Teams,
  tokens: number,
): Record<string, string> {
  return {
    TOKENS: String(tokenCount(tokens)),
    ROWS: String(rows),
    TEAMS: String(count),
    TEAM_LANES: String(lanes),
    SUBGROUPS: String((count * lanes) / Math.min(traits.subgroupMinSize, lanes)),
  };
}

/** A power of two, so that few pipelines serve all counts. */
export function tokenCount(tokens: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, tokens)));
}

/** Workgroups in two dimensions, of which each may have at most 65535. */
export function groupGrid(count: number): [number, number, number] {
  const y = Math.max(1, groups(count, 65535));
  return [groups(count, y), y, 1];
}
