import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  type BlockWishes,
  type GroupDemand,
  planKvBlocks,
} from "../../../src/engine/kv-cache/plan-blocks.ts";
import { SetupError } from "../../../src/errors.ts";
import { uniforms } from "../../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const mebibyte = 2 ** 20;
/** 1 MiB a block, 10 blocks a sequence. */
const full: GroupDemand = {
  bytesPerBlock: mebibyte,
  bytesPerTensorBlock: mebibyte / 8,
  blocksPerSequence: 10,
};
/** Half the layers see a window of 3 blocks only. */
const window: GroupDemand = {
  bytesPerBlock: mebibyte,
  bytesPerTensorBlock: mebibyte / 8,
  blocksPerSequence: 4,
};

function wishes(changes: Partial<BlockWishes> = {}): BlockWishes {
  return {
    groups: [full],
    utilization: 1,
    grantedBytes: 100 * mebibyte,
    tensorBytesMax: 2 ** 31,
    ...changes,
  };
}

function messageOf(changes: Partial<BlockWishes>): string {
  try {
    planKvBlocks(wishes(changes));
  } catch (error) {
    if (error instanceof SetupError) return error.message;
    throw error;
  }
  throw new Error("expected a SetupError");
}

describe("the largest plan", () => {
  test("takes the memory there is, the null block included", () => {
    expect(planKvBlocks(wishes())).toEqual({
      blockCounts: [100],
      bytes: 100 * mebibyte,
      concurrency: 9.9,
    });
  });

  test("leaves what utilization and reserve say", () => {
    const plan = planKvBlocks(wishes({ utilization: 0.5, reservedBytes: 20 * mebibyte }));
    expect(plan.blockCounts).toEqual([40]);
  });

  test("gives groups the blocks of equally many sequences", () => {
    const plan = planKvBlocks(wishes({ groups: [full, window] }));
    expect(plan.blockCounts).toEqual([71, 29]); // 98 MiB beside the null blocks: 7 sequences of 14
    expect(plan.bytes).toBe(100 * mebibyte);
    expect(plan.concurrency).toBe(7);
  });

  test("ends where the device's tensors or the user's sequences do", () => {
    expect(planKvBlocks(wishes({ tensorBytesMax: 5 * mebibyte })).blockCounts).toEqual([40]);
    expect(planKvBlocks(wishes({ concurrencyMax: 3 })).blockCounts).toEqual([31]);
    expect(planKvBlocks(wishes({ concurrencyMax: 3, groups: [full, window] })).blockCounts).toEqual([31, 13]);
  });

  test("just holds one sequence, and a byte less does not", () => {
    const plan = planKvBlocks(wishes({ grantedBytes: 11 * mebibyte }));
    expect(plan).toEqual({ blockCounts: [11], bytes: 11 * mebibyte, concurrency: 1 });
    expect(messageOf({ grantedBytes: 11 * mebibyte - 1 })).toBe(
      "Cannot hold the KV cache of one sequence of full length: expected 11 MiB, got 11 MiB " +
        "(11 MiB granted by the device, 0 MiB of it for other tensors, utilization 1). " +
        "Lower --max-model-len, raise --gpu-memory-utilization, or set --num-blocks",
    );
    expect(messageOf({ grantedBytes: 5 * mebibyte, reservedBytes: 9 * mebibyte })).toContain("got 0 MiB");
  });

  test("names a tensor that cannot be bound", () => {
    expect(messageOf({ tensorBytesMax: mebibyte })).toBe(
      "Cannot allocate 10 KV blocks a layer: the device binds at most 1 MiB at once, which is 7 blocks. " +
        "Lower --num-blocks or --max-model-len",
    );
  });

  test("is within all limits and as large as they allow, for random wishes", () => {
    const random = uniforms(4);
    const upTo = (most: number) => 1 + Math.floor(random() * most);
    for (let round = 0; round < 2000; round++) {
      const groups = Array.from({ length: upTo(3) }, (): GroupDemand => {
        const bytesPerTensorBlock = 64 * upTo(1000);
        return {
          bytesPerTensorBlock,
          bytesPerBlock: bytesPerTensorBlock * upTo(40),
          blocksPerSequence: upTo(50),
        };
      });
      const one = wishes({ groups, utilization: 0.9, grantedBytes: 2 ** 28, tensorBytesMax: 2 ** 24 });
      const { blockCounts, bytes, concurrency } = planKvBlocks(one);
      expect(bytes).toBe(groups.reduce((sum, group, g) => sum + group.bytesPerBlock * blockCounts[g], 0));
      expect(bytes).toBeLessThanOrEqual(Math.ceil(0.9 * 2 ** 28));
      expect(concurrency).toBeGreaterThanOrEqual(1);
      const isTensorFull = groups.map(
        ({ bytesPerTensorBlock }, g) => (blockCounts[g] + 1) * bytesPerTensorBlock > 2 ** 24,
      );
      const unused = 0.9 * 2 ** 28 - bytes;
      const another = groups.reduce((sum, { bytesPerBlock }) => sum + bytesPerBlock, 0);
      expect(isTensorFull.includes(true) || unused < another).toBe(true);
      groups.forEach(({ bytesPerTensorBlock }, g) => {
        expect(blockCounts[g] * bytesPerTensorBlock).toBeLessThanOrEqual(2 ** 24);
      });
    }
  });
});

describe("the user's number of blocks", () => {
  test("is what there is beside the null block, in proportion for smaller groups", () => {
    expect(planKvBlocks(wishes({ numBlocks: 25 })).blockCounts).toEqual([26]);
    expect(planKvBlocks(wishes({ numBlocks: 25, groups: [window, full] })).blockCounts).toEqual([11, 26]);
  });

  test("may be less than one sequence needs, and more than utilization allows", () => {
    expect(planKvBlocks(wishes({ numBlocks: 4 })).concurrency).toBe(0.4);
    expect(planKvBlocks(wishes({ numBlocks: 90, utilization: 0.1 })).blockCounts).toEqual([91]);
  });

  test("is refused when memory or a tensor is too small", () => {
    expect(planKvBlocks(wishes({ numBlocks: 99 })).bytes).toBe(100 * mebibyte);
    expect(messageOf({ numBlocks: 100 })).toBe(
      "Cannot allocate 100 KV blocks: expected at most 100 MiB, which is what the device grants, got 101 MiB. " +
        "Lower --num-blocks, or leave it out to use what there is",
    );
    expect(messageOf({ numBlocks: 40, tensorBytesMax: 5 * mebibyte })).toContain("which is 39 blocks");
  });
});
