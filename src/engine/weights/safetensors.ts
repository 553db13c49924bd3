/**
 * A safetensors checkpoint, streamed: opening reads headers only, and tensors are read by byte range when asked
 * for, so the host never holds a second copy of the model. Knows bytes and shapes, not what a tensor is for.
 */
import { createHash } from "node:crypto";
import { open, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { DTYPE_BYTES, isStoredDtype, toF32, type StoredDtype } from "./dtype.ts";
import { checkpointFault, show } from "./json-file.ts";
import { readExactly, readHeader, type HeaderEntry } from "./safetensors-header.ts";
import { INDEX_FILE, planShards } from "./shards.ts";

export type { StoredDtype } from "./dtype.ts";

/** A tensor on disk: row-major, little-endian, `byteLength` = product of `shape` times the size of `dtype`. */
export interface StoredTensor {
  readonly name: string;
  /** Name of the file in the checkpoint's folder. */
  readonly file: string;
  readonly dtype: StoredDtype;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** Consecutive whole rows of a tensor; `offset` is in bytes from the tensor's first. */
export interface TensorChunk {
  offset: number;
  bytes: Uint8Array<ArrayBuffer>;
}

type LocatedEntry = HeaderEntry & { file: string };

export class Checkpoint {
  readonly dir: string;
  /** Bytes of all tensors together, headers not counted. */
  readonly totalBytes: number;
  readonly #handles: ReadonlyMap<string, FileHandle>;
  readonly #entries: ReadonlyMap<string, LocatedEntry>;

  private constructor(
    dir: string,
    handles: ReadonlyMap<string, FileHandle>,
    entries: ReadonlyMap<string, LocatedEntry>,
  ) {
    this.dir = dir;
    this.#handles = handles;
    this.#entries = entries;
    this.totalBytes = entries.values().reduce((sum, entry) => sum + entry.byteLength, 0);
  }

  /**
   * Opens every file of the checkpoint and checks its header; no tensor is read. The caller owns the result and
   * must `close` it. `only` names a file to take by itself instead of the model's.
   * Throws `CheckpointError` naming file, tensor, expected and found.
   */
  static async open(dir: string, only?: string): Promise<Checkpoint> {
    const handles = new Map<string, FileHandle>();
    const entries = new Map<string, LocatedEntry>();
    try {
      const plan = only === undefined ? await planShards(dir) : new Map([[only, null]]);
      for (const [file, wanted] of plan) {
        const handle = await openFile(join(dir, file));
        handles.set(file, handle);
        const found = await readHeader(handle, join(dir, file));
        for (const entry of pick(found, wanted, join(dir, file))) entries.set(entry.name, { ...entry, file });
      }
    } catch (error) {
      await closeAll(handles);
      throw error;
    }
    return new Checkpoint(dir, handles, entries);
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  names(): Iterable<string> {
    return this.#entries.keys();
  }

  /**
   * The tensor of that name. Throws `CheckpointError` when it is missing, of a dtype that is not served, or not of
   * the expected `shape`.
   */
  tensor(name: string, shape?: readonly number[]): StoredTensor {
    const entry = this.#entries.get(name);
    const part = `tensor ${show(name)}`;
    if (entry === undefined) {
      const expected = shape === undefined ? "it to be there" : `shape ${show(shape)}`;
      throw checkpointFault({ file: this.dir, part, expected, found: "no such tensor" });
    }
    const { dtype } = entry;
    const file = join(this.dir, entry.file);
    if (!isStoredDtype(dtype)) {
      const expected = `dtype ${Object.keys(DTYPE_BYTES).join(", ")}`;
      throw checkpointFault({ file, part, expected, found: dtype });
    }
    if (shape !== undefined && !sameShape(shape, entry.shape)) {
      throw checkpointFault({ file, part, expected: `shape ${show(shape)}`, found: show(entry.shape) });
    }
    return { ...entry, dtype };
  }

  /**
   * Bytes [begin, end) of a tensor, all of it when left out. Fresh, at offset 0 of a buffer that is padded with
   * zeros to a multiple of 4 bytes. Throws `CheckpointError` when the file has shrunk since it was opened.
   */
  async read(tensor: StoredTensor, begin = 0, end = tensor.byteLength): Promise<Uint8Array<ArrayBuffer>> {
    if (!(
      Number.isInteger(begin) &&
      Number.isInteger(end) &&
      0 <= begin &&
      begin <= end &&
      end <= tensor.byteLength
    )) {
      throw new Error(
        `Cannot read ${tensor.name}: expected a range in 0..${tensor.byteLength}, got ${begin}..${end}`,
      );
    }
    const handle = this.#handles.get(tensor.file);
    if (handle === undefined)
      throw new Error(`Cannot read ${tensor.name}: ${tensor.file} is of another checkpoint`);
    return readExactly(handle, {
      file: join(this.dir, tensor.file),
      part: `tensor ${show(tensor.name)}`,
      offset: tensor.offset + begin,
      byteLength: end - begin,
    });
  }

  /**
   * The whole tensor in order, in chunks of at most `chunkBytes` and of whole rows (the elements of a vector are its
   * rows). Chunks begin at multiples of 4 bytes, as buffer writes want it, wherever `chunkBytes` holds two rows.
   */
  async *chunks(tensor: StoredTensor, chunkBytes: number): AsyncGenerator<TensorChunk, void, undefined> {
    const step = chunkStep(tensor, chunkBytes);
    for (let offset = 0; offset < tensor.byteLength; offset += step) {
      yield { offset, bytes: await this.read(tensor, offset, Math.min(offset + step, tensor.byteLength)) };
    }
  }

  /** A small tensor (norm weight, bias, `z_L_init`) as float32. Throws like `tensor` and `read`. */
  async readF32(name: string, shape?: readonly number[]): Promise<Float32Array> {
    const tensor = this.tensor(name, shape);
    return toF32(await this.read(tensor), tensor.dtype);
  }

  /** Tells this checkpoint from every other, and from itself after a change, wherever it lies. Reads no tensor. */
  async fingerprint(): Promise<string> {
    const hash = createHash("sha256").update(JSON.stringify([...this.#entries.values()]));
    for (const [file, handle] of this.#handles) {
      const { size, mtimeMs } = await handle.stat();
      hash.update(JSON.stringify([file, size, mtimeMs]));
    }
    return hash.digest("hex");
  }

  /** Closes the files; nothing can be read afterwards. */
  async close(): Promise<void> {
    await closeAll(this.#handles);
  }
}

async function openFile(file: string): Promise<FileHandle> {
  try {
    return await open(file, "r");
  } catch (error) {
    throw checkpointFault({ file, expected: "a readable file", found: String(error) });
  }
}

async function closeAll(handles: ReadonlyMap<string, FileHandle>): Promise<void> {
  await Promise.all(handles.values().map((handle) => handle.close()));
}

/** The wanted tensors of a shard; one that only the shard knows belongs to another shard by the index, or to nobody. */
function pick(
  found: readonly HeaderEntry[],
  wanted: readonly string[] | null,
  file: string,
): readonly HeaderEntry[] {
  if (wanted === null) return found;
  const byName = new Map(found.map((entry) => [entry.name, entry]));
  return wanted.map((name) => {
    const entry = byName.get(name);
    if (entry !== undefined) return entry;
    const expected = `it in this shard, as ${INDEX_FILE} says`;
    throw checkpointFault({ file, part: `tensor ${show(name)}`, expected, found: "no such tensor" });
  });
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

function chunkStep({ name, dtype, shape, byteLength }: StoredTensor, chunkBytes: number): number {
  const rowBytes = shape.length < 2 ? DTYPE_BYTES[dtype] : byteLength / Math.max(shape[0], 1);
  const rows = Math.floor(chunkBytes / Math.max(rowBytes, 1));
  if (!(rows >= 1)) {
    throw new Error(
      `Cannot cut ${name} in chunks: expected room for a row of ${rowBytes} bytes, got ${chunkBytes}`,
    );
  }
  const isOdd = rowBytes % 4 !== 0 && rows > 1 && rows % 2 === 1;
  return Math.max(rowBytes, 1) * (isOdd ? rows - 1 : rows);
}
