import { readdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { CheckpointError } from "../../../src/engine/errors.ts";
import { Checkpoint } from "../../../src/engine/weights/safetensors.ts";
import {
  readWholeFile,
  withTempDir,
  writeSafetensors,
  writeShards,
  type TestTensor,
} from "../../support/checkpoint.ts";
import { shared } from "../../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const FOLDERS = [
  ...readdirSync(shared("reference"))
    .filter((name) => !name.endsWith(".md"))
    .map((name) => `reference/${name}`),
  "models/hrm-text-tiny",
  "models/tinystories-656k",
];

async function withCheckpoint<T>(dir: string, body: (checkpoint: Checkpoint) => T | Promise<T>): Promise<T> {
  const checkpoint = await Checkpoint.open(dir);
  try {
    return await body(checkpoint);
  } finally {
    await checkpoint.close();
  }
}

/** Bytes 0, 1, 2... so that a byte tells where it came from. */
function counting(name: string, dtype: string, shape: readonly number[], byteLength: number): TestTensor {
  return { name, dtype, shape, bytes: Uint8Array.from({ length: byteLength }, (_, i) => i % 251) };
}

const SMALL = [
  counting("matrix", "BF16", [5, 3], 30),
  counting("vector", "F16", [7], 14),
  counting("scalar", "F32", [], 4),
  counting("empty", "F32", [0, 4], 0),
  counting("positions", "I64", [2], 16),
];

async function withSmall<T>(body: (checkpoint: Checkpoint, dir: string) => T | Promise<T>): Promise<T> {
  return withTempDir(async (dir) => {
    writeSafetensors(join(dir, "model.safetensors"), SMALL);
    return withCheckpoint(dir, (checkpoint) => body(checkpoint, dir));
  });
}

/** What `action` must end with. */
async function thrown(action: () => unknown): Promise<unknown> {
  try {
    await action();
  } catch (error) {
    return error;
  }
  throw new Error("Expected an error, got none");
}

/** The message of the `CheckpointError` that `action` must end with. */
async function failure(action: () => unknown): Promise<string> {
  const error = await thrown(action);
  expect(error).toBeInstanceOf(CheckpointError);
  return (error as Error).message;
}

describe("reading", () => {
  test.each(FOLDERS)("%s: every tensor equals a parse of the whole file", async (folder) => {
    const whole = readWholeFile(shared(`${folder}/model.safetensors`));
    await withCheckpoint(shared(folder), async (checkpoint) => {
      expect([...checkpoint.names()].sort()).toEqual(whole.map(({ name }) => name).sort());
      expect(checkpoint.totalBytes).toBe(whole.reduce((sum, { bytes }) => sum + bytes.length, 0));
      for (const { name, dtype, shape, bytes } of whole) {
        const tensor = checkpoint.tensor(name, shape);
        expect(String(tensor.dtype)).toBe(dtype);
        expect(Buffer.compare(await checkpoint.read(tensor), bytes)).toBe(0);
      }
    });
  });

  test("a range is those bytes, fresh, at offset 0 of a buffer padded to 4 bytes", async () => {
    await withSmall(async (checkpoint) => {
      const bytes = await checkpoint.read(checkpoint.tensor("matrix"), 6, 12);
      expect([...bytes]).toEqual([6, 7, 8, 9, 10, 11]);
      expect([bytes.byteOffset, bytes.buffer.byteLength]).toEqual([0, 8]);
      expect([...new Uint8Array(bytes.buffer, 6)]).toEqual([0, 0]);
    });
  });

  test.each([
    [-1, 4],
    [0, 31],
    [5, 4],
    [0.5, 4],
  ])("refuses the range %d..%d", async (begin, end) => {
    await withSmall(async (checkpoint) => {
      const error = await thrown(() => checkpoint.read(checkpoint.tensor("matrix"), begin, end));
      expect(String(error)).toContain("expected a range in 0..30");
    });
  });

  test("a small tensor is read as float32", async () => {
    const folder = shared("reference/tiny-qwen2");
    const name = "model.layers.0.self_attn.q_proj.bias";
    const stored = readWholeFile(join(folder, "model.safetensors")).filter((tensor) => tensor.name === name);
    const halves = stored.flatMap(({ bytes }) => [...new Uint16Array(bytes.buffer)]);
    await withCheckpoint(folder, async (checkpoint) => {
      const values = await checkpoint.readF32(name, [64]);
      const bits = [...new Uint32Array(values.buffer)];
      expect(bits).toEqual(halves.map((half) => (half << 16) >>> 0));
    });
  });

  test("a missing tensor, a wrong shape and an unserved dtype are named", async () => {
    await withSmall(async (checkpoint, dir) => {
      const file = join(dir, "model.safetensors");
      expect(checkpoint.has("matrix")).toBe(true);
      expect(checkpoint.has("absent")).toBe(false);
      expect(await failure(() => checkpoint.tensor("absent", [2]))).toBe(
        `Cannot read ${dir}, tensor "absent": expected shape [2], got no such tensor`,
      );
      expect(await failure(() => checkpoint.tensor("matrix", [3, 5]))).toBe(
        `Cannot read ${file}, tensor "matrix": expected shape [3,5], got [5,3]`,
      );
      expect(await failure(() => checkpoint.tensor("positions"))).toBe(
        `Cannot read ${file}, tensor "positions": expected dtype F32, F16, BF16, got I64`,
      );
    });
  });

  test("a file that shrinks after it was opened is an error, not zeros", async () => {
    await withSmall(async (checkpoint, dir) => {
      const scalar = checkpoint.tensor("scalar");
      truncateSync(join(dir, "model.safetensors"), scalar.offset + 1);
      expect(await failure(() => checkpoint.read(scalar))).toContain('tensor "scalar": expected 4 bytes');
    });
  });

  test("a closed checkpoint reads nothing", async () => {
    const checkpoint = await withSmall((open) => open);
    const scalar = {
      ...SMALL[2],
      dtype: "F32",
      file: "model.safetensors",
      offset: 0,
      byteLength: 4,
    } as const;
    expect(await thrown(() => checkpoint.read(scalar))).toBeInstanceOf(Error);
  });
});

describe("chunks", () => {
  async function offsetsOf(name: string, chunkBytes: number): Promise<number[]> {
    return withSmall(async (checkpoint) => {
      const tensor = checkpoint.tensor(name);
      const joined: number[] = [];
      const offsets: number[] = [];
      for await (const { offset, bytes } of checkpoint.chunks(tensor, chunkBytes)) {
        expect(offset).toBe(joined.length);
        expect(bytes.length).toBeLessThanOrEqual(chunkBytes);
        offsets.push(offset);
        joined.push(...bytes);
      }
      expect(joined).toEqual([...SMALL.find((small) => small.name === name)!.bytes]);
      return offsets;
    });
  }

  test.each([
    // A row of the matrix has 6 bytes: chunks take an even number of rows, so that they begin at multiples of 4.
    ["matrix", 30, [0, 24]],
    ["matrix", 29, [0, 24]],
    ["matrix", 18, [0, 12, 24]],
    ["matrix", 6, [0, 6, 12, 18, 24]],
    ["matrix", 1 << 20, [0]],
    ["vector", 7, [0, 4, 8, 12]],
    ["scalar", 4, [0]],
    ["empty", 16, []],
  ] as const)("%s in chunks of %i bytes begins at %p", async (name, chunkBytes, offsets) => {
    expect(await offsetsOf(name, chunkBytes)).toEqual([...offsets]);
  });

  test("a chunk that holds no row is refused", async () => {
    const error = await thrown(() => offsetsOf("matrix", 5));
    expect(String(error)).toContain("expected room for a row of 6 bytes, got 5");
  });
});

describe("shards", () => {
  test.each([1, 3])("a model dealt out to %i shards reads like the one file", async (shardCount) => {
    const folder = shared("reference/tiny-hrm-text");
    const tensors = readWholeFile(join(folder, "model.safetensors"));
    await withTempDir(async (dir) => {
      writeShards(dir, tensors, shardCount);
      await withCheckpoint(dir, async (checkpoint) => {
        expect([...checkpoint.names()].sort()).toEqual(tensors.map(({ name }) => name).sort());
        for (const { name, shape, bytes } of tensors) {
          expect(Buffer.compare(await checkpoint.read(checkpoint.tensor(name, shape)), bytes)).toBe(0);
        }
      });
    });
  });

  test("the single file wins, and what only a shard knows is not there", async () => {
    await withTempDir(async (dir) => {
      writeShards(dir, SMALL, 2);
      const extra = readWholeFile(join(dir, "model-00001-of-00002.safetensors"));
      writeSafetensors(join(dir, "model-00001-of-00002.safetensors"), [
        ...extra,
        counting("extra", "F32", [1], 4),
      ]);
      await withCheckpoint(dir, (checkpoint) =>
        expect([checkpoint.has("extra"), checkpoint.has("vector")]).toEqual([false, true]),
      );
      writeSafetensors(join(dir, "model.safetensors"), SMALL.slice(0, 1));
      await withCheckpoint(dir, (checkpoint) => expect([...checkpoint.names()]).toEqual(["matrix"]));
    });
  });

  test("a folder with neither layout says what it lacks", async () => {
    await withTempDir(async (dir) => {
      writeFileSync(join(dir, "pytorch_model.bin"), "");
      const expected = "model.safetensors or model.safetensors.index.json, got neither";
      expect(await failure(() => Checkpoint.open(dir))).toBe(`Cannot read ${dir}: expected ${expected}`);
    });
  });
});
