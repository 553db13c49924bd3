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
  /** Loads of each row in flight a lane. */
  unroll: number;
}

interface Product {
  tokens: number;
  rows: number;
  inputs: number;
  /** What the rows of a team are a multiple of. */
  rowsStep: number;
}

/** Fewer rows than this leave cores of a large GPU without work unless many lanes share a row. */
const manyRows = 4096;

const groupLanes = 256;

/** What was fastest on an H100 (docs/log.md). */
export function chooseTeams(traits: GpuTraits, { tokens, rows, inputs, rowsStep }: Product): Teams {
  const wanted = rows >= manyRows ? 64 : 128;
  const lanes = Math.max(wanted, traits.subgroupMaxSize);
  const ofTeam = tokens > 2 ? 4 : rows >= manyRows ? 2 : 1;
  const loads = groups(inputs / 8, lanes);
  const unroll = [4, 3, 2].find((count) => loads % count === 0) ?? 1;
  return {
    count: Math.max(1, Math.floor(groupLanes / lanes)),
    lanes,
    rows: Math.max(rowsStep, ofTeam),
    unroll: tokens > 2 ? Math.min(unroll, 2) : unroll,
  };
}

/** The consts that all files with teams have. */
export function teamConsts(
  traits: GpuTraits,
  { count, lanes, rows, unroll }: Teams,
  { tokens, inputs }: { tokens: number; inputs: number },
): Record<string, string> {
  return {
    TOKENS: String(tokenCount(tokens)),
    ROWS: String(rows),
    TEAMS: String(count),
    TEAM_LANES: String(lanes),
    UNROLL: String(unroll),
    WHOLE: String((inputs / 8) % (lanes * unroll) === 0),
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
