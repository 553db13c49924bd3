import { mkdirSync, readdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { QuantizationCache, type QuantizedMatrix } from "../../../src/engine/weights/quantization-cache.ts";
import { Checkpoint } from "../../../src/engine/weights/safetensors.ts";
import { readWholeFile, withTempDir, writeSafetensors } from "../../support/checkpoint.ts";

setDefaultTimeout(60_000);

const matrix: QuantizedMatrix = {
  names: ["../model.q", "model.k"],
  rows: 3,
  columns: 96,
  dtype: "i8",
  group: 32,
};
const values = Uint8Array.from({ length: 3 * 96 }, (_, i) => i * 7);
const scales = Uint8Array.from({ length: 3 * 3 * 2 }, (_, i) => i + 1);

interface Opened {
  cache: QuantizationCache;
  folder: string;
  notes: string[];
}

/** A cache in an empty folder. */
function withCache(body: (opened: Opened) => Promise<void>): Promise<void> {
  return withTempDir((dir) => {
    const folder = join(dir, "cache");
    return body({ folder, ...openCache(folder) });
  });
}

function openCache(
  folder: string,
  fingerprint = "checkpoint",
): { cache: QuantizationCache; notes: string[] } {
  const notes: string[] = [];
  return { cache: new QuantizationCache({ folder, fingerprint, onNote: (note) => notes.push(note) }), notes };
}

async function store(cache: QuantizationCache): Promise<void> {
  const writer = await cache.create(matrix);
  for (const bytes of [values.subarray(0, 96), values.subarray(96), scales]) await writer.write(bytes);
  await writer.finish();
  await writer.abandon();
}

/** What the cache gives of the matrix, or null. */
async function loaded(cache: QuantizationCache, wanted = matrix): Promise<Record<string, number[]> | null> {
  const found: Record<string, number[]> = { values: [], scales: [] };
  const isThere = await cache.load(wanted, (region, offset, bytes) => {
    expect(offset).toBe(found[region].length);
    found[region].push(...bytes);
    return Promise.resolve();
  });
  return isThere ? found : null;
}

/** Every file in the folder, however deep. */
function filesIn(folder: string): string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
}

const stored = { values: [...values], scales: [...scales] };

describe("a stored matrix", () => {
  test("comes back, from a file that is safetensors, and nothing else is left", () =>
    withCache(async ({ cache, folder, notes }) => {
      expect(await loaded(cache)).toBeNull();
      await store(cache);
      expect(await loaded(openCache(folder).cache)).toEqual(stored);
      const [file, ...others] = filesIn(folder);
      expect([others, readdirSync(folder).length, notes]).toEqual([[], 1, []]);
      const described = readWholeFile(file).map(({ name, dtype, shape }) => [name, dtype, shape]);
      expect(described).toEqual([
        ["values", "I8", [3, 96]],
        ["scales", "F16", [3, 3]],
        ["sha256", "U8", [32]],
      ]);
    }));

  test("is not given for another checkpoint, format, group, shape or set of parts", () =>
    withCache(async ({ cache, folder }) => {
      await store(cache);
      expect(await loaded(openCache(folder, "another").cache)).toBeNull();
      const others: Partial<QuantizedMatrix>[] = [
        { dtype: "i4" },
        { group: 64 },
        { rows: 4 },
        { names: ["../model.q", "model.v"] },
      ];
      for (const change of others) {
        expect(await loaded(openCache(folder).cache, { ...matrix, ...change })).toBeNull();
      }
      expect(await loaded(cache)).toEqual(stored);
    }));

  test("appears whole or not at all", () =>
    withCache(async ({ cache, folder }) => {
      const writer = await cache.create(matrix);
      await writer.write(values);
      expect(await loaded(cache)).toBeNull();
      await writer.abandon();
      expect(filesIn(folder)).toEqual([]);
    }));
});

describe("damage", () => {
  test("to any byte is noticed, said in one line, and mended by storing anew", () =>
    withCache(async ({ cache, folder }) => {
      await store(cache);
      const [file] = filesIn(folder);
      const whole = readFileSync(file);
      for (const at of [0, 30, whole.length - 32 - 18 - 1, whole.length - 40, whole.length - 1]) {
        const damaged = Uint8Array.from(whole);
        damaged[at] ^= 4;
        writeFileSync(file, damaged);
        const { cache: reopened, notes } = openCache(folder);
        expect([at, await loaded(reopened), await loaded(reopened)]).toEqual([at, null, null]);
        expect(notes.length).toBe(1);
        expect(notes[0]).toContain(`Making damaged files of the quantisation cache ${folder}`);
        await store(reopened);
        expect(await loaded(reopened)).toEqual(stored);
      }
    }));

  test("a file that was cut off is noticed", () =>
    withCache(async ({ cache, folder }) => {
      await store(cache);
      const [file] = filesIn(folder);
      for (const size of [readFileSync(file).length - 1, 20, 0]) {
        truncateSync(file, size);
        const { cache: reopened, notes } = openCache(folder);
        expect([await loaded(reopened), notes.length]).toEqual([null, 1]);
      }
    }));

  test("a folder that cannot be written is said once and is no error", () =>
    withTempDir(async (dir) => {
      writeFileSync(join(dir, "file"), "");
      const { cache, notes } = openCache(join(dir, "file"));
      await store(cache);
      await store(cache);
      expect(await loaded(cache)).toBeNull();
      expect(notes.length).toBe(1);
      expect(notes[0]).toContain("Cannot cache quantised weights in");
    }));
});

test("a checkpoint's fingerprint is its files', wherever they lie", () =>
  withTempDir(async (dir) => {
    const fingerprint = async (name: string, bytes: number[], seconds: number) => {
      const folder = join(dir, name);
      mkdirSync(folder, { recursive: true });
      const file = join(folder, "model.safetensors");
      writeSafetensors(file, [{ name: "w", dtype: "F32", shape: [1], bytes: Uint8Array.from(bytes) }]);
      utimesSync(file, seconds, seconds);
      const checkpoint = await Checkpoint.open(folder);
      return checkpoint.fingerprint().finally(() => checkpoint.close());
    };
    const first = await fingerprint("a", [1, 2, 3, 4], 1000);
    expect(await fingerprint("b", [1, 2, 3, 4], 1000)).toBe(first);
    expect(await fingerprint("a", [4, 3, 2, 1], 1001)).not.toBe(first);
  }));
