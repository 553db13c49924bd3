/**
 * How the lanes of the decoding products are shared out: a team of lanes strides over the inputs of a few rows of the
 * weight, a few teams are a workgroup.
 */
import type { GpuTraits } from "../gpu.ts";
import { groups } from "../kernel.ts";
import { tokensClass, type Variants } from "../tuning.ts";
import type { Dtype, Tensor } from "../tensor.ts";

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
  /** [rows, inputs] */
  weight: Tensor;
  /** What the rows of a team are a multiple of. */
  rowsStep: number;
}

/** Fewer rows than this leave cores of a large GPU without work unless many lanes share a row. */
const manyRows = 3072;
const longInputs = 4096;

/** How the lanes are shared out where no tuning says otherwise. */
export function chooseTeams(traits: GpuTraits, product: Product): Teams {
  const wanted = fastestTeams(product);
  const fitting = stagedBytesMax / stagedBytes(product.weight, tokenCount(product.tokens));
  const busy = 2 ** Math.ceil(Math.log2(itemsOfRow(product.weight)));
  const lanes = Math.max(Math.min(wanted.lanes, fitting, busy), traits.subgroupMaxSize);
  const group = Math.min(wanted.group, traits.workgroupLanesMax);
  return {
    count: Math.max(1, Math.floor(group / lanes)),
    lanes,
    rows: Math.max(product.rowsStep, wanted.rows),
  };
}

/** What was fastest on an H100 (docs/log.md): lanes of a team, rows it reads at a time, lanes of a workgroup. */
function fastestTeams({ tokens, weight, rowsStep }: Product): Omit<Teams, "count"> & { group: number } {
  const [rows, inputs] = weight.shape;
  const isLong = inputs >= longInputs;
  const isQuantized = weight.dtype in items;
  if (rows < manyRows) {
    if (tokens > 2) return { lanes: 128, rows: 2, group: 256 };
    if (!isLong) return { lanes: 128, rows: 1, group: 256 };
    return { lanes: 128, rows: isQuantized ? 2 : 1, group: 512 };
  }
  if (tokens > 1) return { lanes: rowsStep > 2 ? 64 : 32, rows: tokens > 2 ? 2 : 1, group: 256 };
  if (isQuantized) return { lanes: isLong || rowsStep > 2 ? 64 : 32, rows: 2, group: 256 };
  return { lanes: isLong || rowsStep > 2 ? 128 : 64, rows: 2, group: 256 };
}

/** The teams worth a try with so many rows each: whole workgroups of them, as large as the device allows. */
function triedTeams(
  { subgroupMaxSize, workgroupLanesMax }: GpuTraits,
  rowCounts: readonly number[],
): Teams[] {
  const groupSizes = [128, 256, 384, 512].filter((group) => group <= workgroupLanesMax);
  return groupSizes
    .flatMap((group) => [32, 64, 128, 256].map((lanes) => ({ group, lanes })))
    .filter(({ group, lanes }) => group % lanes === 0 && lanes >= subgroupMaxSize)
    .flatMap(({ group, lanes }) => rowCounts.map((rows) => ({ count: group / lanes, lanes, rows })));
}

/** What a product by teams may be run as. */
export function teamVariants(
  traits: GpuTraits,
  {
    kernel,
    weight,
    tokens,
    byDefault,
    rowCounts,
  }: {
    kernel: string;
    weight: Tensor;
    tokens: number;
    byDefault: Teams;
    /** Rows of a team that the kernel can have. */
    rowCounts: readonly number[];
  },
): Variants<Teams> {
  const [rows, inputs] = weight.shape;
  return {
    shape: { kernel, rows, inputs, tokens: tokensClass(tokens), format: weight.dtype },
    byDefault,
    others: () => triedTeams(traits, rowCounts),
  };
}

/** Of an item, 16 bytes of weights (32 of f32): how many eights they are, and how often 16 bytes their inputs take. */
const items: Partial<Record<Dtype, { eighths: number; vectors: number }>> = {
  i8: { eighths: 2, vectors: 2 },
  i4: { eighths: 4, vectors: 4 },
};
const floatItem = { eighths: 1, vectors: 2 };

/** What an item of a matrix in this format is. */
export function itemOf(format: Dtype): { eighths: number; vectors: number } {
  return items[format] ?? floatItem;
}

function itemsOfRow({ dtype, shape }: Tensor): number {
  return groups(shape[1], 8 * itemOf(dtype).eighths);
}

/** Most items that a lane has in flight, for its registers, and most bytes of inputs that a workgroup holds. */
const inFlightMax = 16;
const stagedBytesMax = 16384;

/** Bytes that a lane's item takes of the inputs that a workgroup holds. */
function stagedBytes({ dtype }: Tensor, tokens: number): number {
  return 16 * itemOf(dtype).vectors * tokens;
}

/** Tokens that a workgroup has at a time: all, if it can hold their inputs; else as many as it can. */
export function tokenTile(tokens: number, weight: Tensor, lanes: number): number {
  const all = tokenCount(tokens);
  const fitting = Math.floor(stagedBytesMax / (stagedBytes(weight, 1) * lanes));
  return Math.min(all, Math.max(2, 2 ** Math.floor(Math.log2(fitting))));
}

/** The consts that all files with teams have. */
export function teamConsts(
  traits: GpuTraits,
  { count, lanes, rows }: Teams,
  weight: Tensor,
  tokens: number,
): Record<string, string> {
  const { eighths, vectors } = itemOf(weight.dtype);
  const tile = tokenTile(tokens, weight, lanes);
  const fitting = Math.floor(stagedBytesMax / (stagedBytes(weight, tile) * lanes));
  const unrollMax = Math.max(1, Math.min(Math.floor(inFlightMax / rows), fitting));
  const turns = groups(itemsOfRow(weight), lanes);
  const values = {
    TOKENS: tile,
    ROWS: rows,
    TEAMS: count,
    TEAM_LANES: lanes,
    SUBGROUPS: (count * lanes) / Math.min(traits.subgroupMinSize, lanes),
    UNROLL: groups(turns, groups(turns, unrollMax)),
    EIGHTHS: eighths,
    VECTORS: vectors,
  };
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, String(value)]));
}

/** A power of two, so that few pipelines serve all counts. */
export function tokenCount(tokens: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, tokens)));
}

/** Workgroups of rows in two dimensions, of which each may have at most 65535; of tokens in the third. */
export function groupGrid(count: number, tiles: number): [number, number, number] {
  const y = Math.max(1, groups(count, 65535));
  return [groups(count, y), y, tiles];
}
