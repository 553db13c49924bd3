/** How many KV blocks each group of layers gets out of the memory there is. Pure: the memory was probed elsewhere. */
import { SetupError } from "../../errors.ts";

/** The needs of one group of layers. */
export interface GroupDemand {
  /** Of one block id through all layers of the group. */
  bytesPerBlock: number;
  /** Of one block in the group's largest tensor, which holds one layer pass. */
  bytesPerTensorBlock: number;
  /** Blocks of a sequence of full length. */
  blocksPerSequence: number;
}

export interface BlockWishes {
  groups: readonly GroupDemand[];
  /** --num-blocks: usable blocks of the group that needs most a sequence; the others get theirs in proportion. */
  numBlocks?: number;
  /** --gpu-memory-utilization: the share of the free memory that blocks may take, above 0 and at most 1. */
  utilization: number;
  /** What the device grants now. */
  grantedBytes: number;
  /** Part of that for what is still to be allocated beside KV. Default 0. */
  reservedBytes?: number;
  /** The largest tensor the device can bind. */
  tensorBytesMax: number;
  /** Sequences of full length beyond which more memory is not worth taking. Default: no limit. */
  concurrencyMax?: number;
}

export interface BlockPlan {
  /** Per group, the null block included. */
  blockCounts: number[];
  bytes: number;
  /** How many sequences of full length fit at once; below 1 only if --num-blocks is that small. */
  concurrency: number;
}

/**
 * Gives every group the blocks of equally many full sequences. Throws SetupError that says what to change when not one
 * sequence of full length fits, or not the number of blocks that was asked for.
 */
export function planKvBlocks(wishes: BlockWishes): BlockPlan {
  const plan = wishes.numBlocks === undefined ? largestPlan(wishes) : plannedFor(wishes, wishes.numBlocks);
  checkTensors(wishes, plan);
  return plan;
}

/** A quotient times its divisor may come out short of a whole number of blocks by this much. */
const rounding = 1e-9;

function largestPlan(wishes: BlockWishes): BlockPlan {
  const { groups, utilization, concurrencyMax = Infinity, tensorBytesMax } = wishes;
  const budget = freeBytes(wishes) * utilization;
  const nullBlocks = sum(groups, ({ bytesPerBlock }) => bytesPerBlock);
  const perSequence = sum(
    groups,
    ({ bytesPerBlock, blocksPerSequence }) => bytesPerBlock * blocksPerSequence,
  );
  const byMemory = (budget - nullBlocks) / perSequence;
  if (byMemory < 1) throw new SetupError(tooLittleMemory(perSequence + nullBlocks, wishes));
  const byTensor = ({ bytesPerTensorBlock, blocksPerSequence }: GroupDemand) =>
    Math.max(1, (Math.floor(tensorBytesMax / bytesPerTensorBlock) - 1) / blocksPerSequence);
  const concurrency = Math.min(byMemory, Math.max(1, concurrencyMax), ...groups.map(byTensor));
  return planOf(
    groups,
    groups.map(({ blocksPerSequence }) => Math.floor(concurrency * blocksPerSequence + rounding) + 1),
  );
}

function plannedFor(wishes: BlockWishes, numBlocks: number): BlockPlan {
  const { groups } = wishes;
  const most = Math.max(...groups.map(({ blocksPerSequence }) => blocksPerSequence));
  const plan = planOf(
    groups,
    groups.map(({ blocksPerSequence }) => Math.ceil((numBlocks * blocksPerSequence) / most) + 1),
  );
  const free = freeBytes(wishes);
  if (plan.bytes > free) {
    throw new SetupError(
      `Cannot allocate ${numBlocks} KV blocks: expected at most ${mebibytes(free)}, which is what the device grants, ` +
        `got ${mebibytes(plan.bytes)}. Lower --num-blocks, or leave it out to use what there is`,
    );
  }
  return plan;
}

function planOf(groups: readonly GroupDemand[], blockCounts: number[]): BlockPlan {
  const fitting = groups.map(({ blocksPerSequence }, index) => (blockCounts[index] - 1) / blocksPerSequence);
  const bytes = sum(groups, ({ bytesPerBlock }, index) => bytesPerBlock * blockCounts[index]);
  return { blockCounts, bytes, concurrency: Math.min(...fitting) };
}

function checkTensors({ groups, tensorBytesMax }: BlockWishes, { blockCounts }: BlockPlan): void {
  groups.forEach(({ bytesPerTensorBlock }, index) => {
    const most = Math.floor(tensorBytesMax / bytesPerTensorBlock) - 1;
    const count = blockCounts[index] - 1;
    if (count > most) {
      throw new SetupError(
        `Cannot allocate ${count} KV blocks a layer: the device binds at most ${mebibytes(tensorBytesMax)} at once, ` +
          `which is ${most} blocks. Lower --num-blocks or --max-model-len`,
      );
    }
  });
}

function tooLittleMemory(
  needed: number,
  { grantedBytes, reservedBytes = 0, utilization }: BlockWishes,
): string {
  const budget = Math.max(0, (grantedBytes - reservedBytes) * utilization);
  return (
    `Cannot hold the KV cache of one sequence of full length: expected ${mebibytes(needed)}, got ${mebibytes(budget)} ` +
    `(${mebibytes(grantedBytes)} granted by the device, ${mebibytes(reservedBytes)} of it for other tensors, ` +
    `utilization ${utilization}). Lower --max-model-len, raise --gpu-memory-utilization, or set --num-blocks`
  );
}

function freeBytes({ grantedBytes, reservedBytes = 0 }: BlockWishes): number {
  return grantedBytes - reservedBytes;
}

function sum(groups: readonly GroupDemand[], value: (group: GroupDemand, index: number) => number): number {
  return groups.reduce((total, group, index) => total + value(group, index), 0);
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
