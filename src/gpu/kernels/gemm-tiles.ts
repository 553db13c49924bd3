/** Which tile a product on matrix units is cut into: what was fastest on an H100 for such a shape. */
import type { GpuTraits } from "../gpu.ts";
import { groups } from "../kernel.ts";
import { cores } from "./reference-gpu.ts";

/** Sizes of wgsl/gemm.wgsl; pairs are along tokens and along rows of the weight. */
export interface GemmTile {
  /** Matrices of 16 x 16 that a subgroup has. */
  readonly matrices: readonly [number, number];
  /** Subgroups side by side. */
  readonly parts: readonly [number, number];
  /** Subgroups that share a part: each takes its turn along the columns. */
  readonly split: number;
  /** Matrices along the columns that each of them multiplies a step. */
  readonly turns: number;
  /** 2: the subgroups of half of the rows multiply while the others stage; nothing is split, rows of parts are even. */
  readonly halves: 1 | 2;
  /** Steps fetched ahead. */
  readonly ahead: 1 | 2;
  /** Fetches the last step again rather than ask whether there is one more, where steps come in whole cycles. */
  readonly isEager: boolean;
}

export function tileTokens({ matrices, parts }: GemmTile): number {
  return 16 * matrices[0] * parts[0];
}

export function tileRows({ matrices, parts }: GemmTile): number {
  return 16 * matrices[1] * parts[1];
}

/** Columns staged at a time. */
function tileStep({ turns, split }: GemmTile): number {
  return 16 * turns * split;
}

/** The consts of wgsl/gemm.wgsl, for sums over so many columns. */
export function tileConsts(tile: GemmTile, columns: number): Record<string, string> {
  const { matrices, parts, split, turns, halves, ahead, isEager } = tile;
  const itemsPerRow = tileStep(tile) / 8 / (32 * parts[0] * parts[1] * split);
  const cycle = stepsWritten(tile, columns);
  const values = {
    PARTS_T: parts[0],
    PARTS_N: parts[1],
    ROWS_T: matrices[0],
    ROWS_N: matrices[1],
    SPLIT: split,
    TURNS: turns,
    HALVES: halves,
    AHEAD: ahead,
    CYCLE: cycle,
    EAGER: isEager && (columns / tileStep(tile)) % cycle === 0 ? 1 : 0,
    X_ITEMS: tileTokens(tile) * itemsPerRow,
    W_ITEMS: tileRows(tile) * itemsPerRow,
  };
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, `${value}u`]));
}

/** Steps of the loop's body: more of them where copies at its end, of what is on its way, would wait for it. */
function stepsWritten(tile: GemmTile, columns: number): number {
  const least = Math.max(tile.halves, tile.ahead);
  if (tile.halves === 1) return least;
  return [8, 4].find((steps) => (columns / tileStep(tile)) % steps === 0) ?? least;
}

export interface GemmShape {
  tokens: number;
  inputs: number;
  /** Rows of the weight. */
  rows: number;
  /** Its rows are gate | up: a subgroup needs both of a pair of matrices. */
  isGated?: boolean;
  /** Shares of the inputs that workgroups divide among themselves. Default 1. */
  shares?: number;
}

function tile(
  matrices: readonly [number, number],
  parts: readonly [number, number],
  rest: Partial<GemmTile> = {},
): GemmTile {
  return { matrices, parts, split: 1, turns: 4, halves: 1, ahead: 1, isEager: false, ...rest };
}

const small = tile([2, 2], [2, 2]);

/** Two halves, by turns, of 32 columns or of `turns * 16`. */
function halves(matrices: readonly [number, number], turns = 2): GemmTile {
  return tile(matrices, [2, 4], { turns, halves: 2, ahead: 2, isEager: true });
}

/** For many tokens, with the time an element of the tile takes. All add up in the same order. */
const dense: readonly { tile: GemmTile; cost: number }[] = [
  { tile: halves([4, 4]), cost: 1 }, // 128 x 256
  { tile: halves([4, 3]), cost: 1.17 },
  { tile: halves([3, 2], 4), cost: 1.25 }, // 96 x 128
  { tile: halves([2, 3], 4), cost: 1.3 },
  { tile: tile([4, 4], [2, 2]), cost: 1.38 }, // 128 x 128
  { tile: small, cost: 1.8 }, // 64 x 64
  { tile: { ...small, turns: 2 }, cost: 2 },
];

function eager(...[matrices, parts, rest]: Parameters<typeof tile>): GemmTile {
  return tile(matrices, parts, { ...rest, isEager: true });
}

/**
 * For up to so many tokens: subgroups divide the columns among themselves. Wide tiles, which come first, read x less
 * often, narrow ones make more workgroups. All have steps of the same length, or of twice that.
 */
const skinny: readonly { tokens: number; tiles: readonly GemmTile[] }[] = [
  {
    tokens: 16,
    tiles: [
      eager([1, 2], [1, 1], { split: 8, turns: 1, ahead: 2 }),
      tile([1, 1], [1, 1], { split: 8, turns: 2, ahead: 2 }),
    ],
  },
  {
    tokens: 32,
    tiles: [
      eager([2, 2], [1, 1], { split: 8, turns: 1, ahead: 2 }),
      tile([2, 1], [1, 1], { split: 8, turns: 1, ahead: 2 }),
    ],
  },
  {
    tokens: 64,
    tiles: [
      eager([2, 3], [2, 2], { split: 2 }),
      eager([2, 2], [2, 2], { split: 2 }),
      eager([2, 3], [2, 1], { split: 4, turns: 2 }),
      tile([4, 2], [1, 1], { split: 8, turns: 1, ahead: 2 }),
    ],
  },
];

/** Workgroups of a product in shares with which such a GPU is busy enough. */
const workgroupsWanted = 100;

export function chooseTile(traits: GpuTraits, shape: GemmShape): GemmTile {
  const few = skinny.find(({ tokens }) => shape.tokens <= tokens);
  // With `split`, the order of the sums depends on the tile.
  const chosen = few && !traits.deterministic ? skinnyTile(few.tiles, shape) : denseTile(traits, shape);
  // The shortest steps, which all inputs are a multiple of.
  return suits(chosen, shape) ? chosen : { ...small, turns: 2 };
}

/** Whether its steps divide the columns, and a pair of gate and up the rows of a subgroup. */
function suits(tile: GemmTile, { inputs, isGated, shares = 1 }: GemmShape): boolean {
  return (inputs / shares) % tileStep(tile) === 0 && !(isGated && tile.matrices[1] % 2 !== 0);
}

/** The tiles that are worth a try for a shape. */
export function triedTiles(traits: GpuTraits, shape: GemmShape): GemmTile[] {
  const few = skinny.find(({ tokens }) => shape.tokens <= tokens);
  const tiles = few ? [...few.tiles, small] : denseTiles(traits).map(({ tile }) => tile);
  return tiles.filter((tile) => suits(tile, shape));
}

/** Cores that have a tile at a time stage all of x and weight that it needs. */
function skinnyTile(tiles: readonly GemmTile[], shape: GemmShape): GemmTile {
  const fitting = tiles.filter(({ matrices }) => !shape.isGated || matrices[1] % 2 === 0);
  const time = (tile: GemmTile) =>
    groups(workgroups(tile, shape), cores) * (tileTokens(tile) + tileRows(tile));
  return fitting.reduce((best, other) => (time(other) < time(best) ? other : best));
}

/** Halves by turns pass barriers at different places. */
function denseTiles({ countsBarriers }: GpuTraits) {
  return dense.filter(({ tile }) => tile.halves === 1 || countsBarriers);
}

/** The tile that is done first where each core has one at a time. */
function denseTile(traits: GpuTraits, shape: GemmShape): GemmTile {
  const fitting = denseTiles(traits).filter(({ tile }) => suits(tile, shape));
  const time = ({ tile, cost }: (typeof dense)[number]) =>
    groups(workgroups(tile, shape), cores) * tileTokens(tile) * tileRows(tile) * cost;
  return fitting.reduce((best, other) => (time(other) < time(best) ? other : best)).tile;
}

function workgroups(tile: GemmTile, { tokens, rows, shares = 1 }: GemmShape): number {
  return shares * groups(tokens, tileTokens(tile)) * groups(rows, tileRows(tile));
}

/** Most shares of a product: each is written and read again. */
const sharesMax = 4;

/** Most rows of a product in shares, all together. */
export const shareRowsMax = sharesMax * Math.max(...skinny.map(({ tokens }) => tokens));

/**
 * How many shares a product of few tokens is worth splitting into (`gemm`'s `shares`) where what follows can add them up
 * for nothing, as `addNormF16` does: so many that wide tiles keep a large GPU busy.
 */
export function gemmShares({ deterministic }: GpuTraits, shape: GemmShape): number {
  const few = skinny.find(({ tokens }) => shape.tokens <= tokens);
  if (deterministic || !few) return 1;
  const [wide] = few.tiles;
  let shares = 1;
  while (shares < sharesMax && workgroups(wide, { ...shape, shares }) < workgroupsWanted) {
    if ((shape.inputs / shares) % (2 * tileStep(wide)) !== 0) break;
    shares *= 2;
  }
  return shares;
}
