/**
 * Quantised matrices on disk, so that a model is quantised once. A folder a checkpoint, a safetensors file a matrix: its
 * values, its scales, and a SHA-256 of all before it. A file appears whole, by renaming, and one that is not exactly
 * what would be written now is made anew. The cache is a convenience: what fails in it is said once and is no error.
 */
import { createHash, type Hash } from "node:crypto";
import { mkdir, mkdtemp, open, rename, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { QUANTIZER_VERSION, type QuantizedDtype } from "./quantize.ts";
import { readExactly } from "./safetensors-header.ts";

/** A quantised matrix of [rows, columns] with a scale for each `group` of a row. */
export interface QuantizedMatrix {
  /** Of the tensors that lie below each other in it. */
  names: readonly string[];
  rows: number;
  columns: number;
  dtype: QuantizedDtype;
  group: number;
}

export type Region = "values" | "scales";

/** Takes bytes of a region in order; the bytes are the taker's. */
export type TakeBytes = (region: Region, offset: number, bytes: Uint8Array<ArrayBuffer>) => Promise<void>;

export interface QuantizationCacheOptions {
  /** Folder of all checkpoints' caches. */
  folder: string;
  /** What tells this checkpoint from every other, wherever it lies. */
  fingerprint: string;
  /** Told once what is wrong with the cache. */
  onNote: (note: string) => void;
}

const chunkBytes = 8 << 20;
const digestBytes = 32;

export class QuantizationCache {
  readonly #folder: string;
  readonly #onNote: (note: string) => void;
  #hasNoted = false;

  constructor({ folder, fingerprint, onNote }: QuantizationCacheOptions) {
    const key = createHash("sha256").update(`${QUANTIZER_VERSION} ${fingerprint}`).digest("hex");
    this.#folder = join(folder, key.slice(0, 32));
    this.#onNote = onNote;
  }

  /**
   * Gives all bytes of a matrix to `take` and returns true, or false if the cache does not have it. Of a damaged file
   * some bytes may have been given before that was noticed.
   */
  async load(matrix: QuantizedMatrix, take: TakeBytes): Promise<boolean> {
    const handle = await open(this.#file(matrix), "r").catch(() => null);
    if (!handle) return false;
    try {
      await readChecked(handle, layoutOf(matrix), take);
      return true;
    } catch (error) {
      this.#note(`Making damaged files of the quantisation cache ${this.#folder} anew: ${String(error)}`);
      return false;
    } finally {
      await handle.close();
    }
  }

  /** Begins the file of a matrix; `finish` makes it appear. Nothing that goes wrong in either is an error. */
  async create(matrix: QuantizedMatrix): Promise<CacheWriter> {
    const writer = new CacheWriter(layoutOf(matrix), (error) =>
      this.#note(`Cannot cache quantised weights in ${this.#folder}: ${String(error)}`),
    );
    await writer.open(this.#folder, this.#file(matrix));
    return writer;
  }

  #note(text: string): void {
    if (!this.#hasNoted) this.#onNote(text);
    this.#hasNoted = true;
  }

  #file({ names, dtype, group }: QuantizedMatrix): string {
    return join(this.#folder, `${encodeURIComponent(names[0])}.${dtype}-${group}.safetensors`);
  }
}

/** Where the parts of a file begin, in bytes; everything but the regions' content is known beforehand. */
interface Layout {
  header: Uint8Array<ArrayBuffer>;
  regions: Record<Region, { offset: number; byteLength: number }>;
  digestOffset: number;
}

function layoutOf({ names, rows, columns, dtype, group }: QuantizedMatrix): Layout {
  const valueBytes = (rows * columns) / (dtype === "i8" ? 1 : 2);
  const scaleBytes = ((rows * columns) / group) * 2;
  const ends = [valueBytes, valueBytes + scaleBytes, valueBytes + scaleBytes + digestBytes];
  const text = JSON.stringify({
    __metadata__: { parts: names.join(" "), quantizer: String(QUANTIZER_VERSION) },
    values: {
      dtype: dtype === "i8" ? "I8" : "U8",
      shape: [rows, dtype === "i8" ? columns : columns / 2],
      data_offsets: [0, ends[0]],
    },
    scales: { dtype: "F16", shape: [rows, columns / group], data_offsets: [ends[0], ends[1]] },
    sha256: { dtype: "U8", shape: [digestBytes], data_offsets: [ends[1], ends[2]] },
  });
  const json = new TextEncoder().encode(text);
  const header = new Uint8Array(8 + json.length);
  new DataView(header.buffer).setBigUint64(0, BigInt(json.length), true);
  header.set(json, 8);
  const start = header.length;
  return {
    header,
    regions: {
      values: { offset: start, byteLength: valueBytes },
      scales: { offset: start + ends[0], byteLength: scaleBytes },
    },
    digestOffset: start + ends[1],
  };
}

async function readChecked(handle: FileHandle, layout: Layout, take: TakeBytes): Promise<void> {
  const { header, regions, digestOffset } = layout;
  const fileBytes = digestOffset + digestBytes;
  const { size } = await handle.stat();
  if (size !== fileBytes) throw new Error(`expected ${fileBytes} bytes, got ${size}`);
  const read = (offset: number, byteLength: number) =>
    readExactly(handle, { file: "a cached matrix", offset, byteLength });
  if (!equal(await read(0, header.length), header)) throw new Error("expected the header of this matrix");
  const hash = createHash("sha256").update(header);
  for (const region of ["values", "scales"] as const) {
    const { offset, byteLength } = regions[region];
    for (let at = 0; at < byteLength; at += chunkBytes) {
      const bytes = await read(offset + at, Math.min(chunkBytes, byteLength - at));
      hash.update(bytes);
      await take(region, at, bytes);
    }
  }
  if (!equal(hash.digest(), await read(digestOffset, digestBytes))) {
    throw new Error("expected bytes of the SHA-256 at the file's end");
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

/** Writes one file beside its place. After a failure it is told of, it does nothing more. */
export class CacheWriter {
  readonly #layout: Layout;
  readonly #hash: Hash;
  readonly #onFailure: (error: unknown) => void;
  #open: { handle: FileHandle; folder: string; target: string } | null = null;
  #position = 0;

  constructor(layout: Layout, onFailure: (error: unknown) => void) {
    this.#layout = layout;
    this.#hash = createHash("sha256");
    this.#onFailure = onFailure;
  }

  open(folder: string, target: string): Promise<void> {
    return this.#trying(async () => {
      await mkdir(folder, { recursive: true });
      const fresh = await mkdtemp(join(folder, "new-")); // of this process alone
      this.#open = { handle: await open(join(fresh, "matrix"), "wx"), folder: fresh, target };
      await this.#append(this.#layout.header);
    });
  }

  /** The next bytes of the file: all values in order, then all scales. */
  write(bytes: Uint8Array): Promise<void> {
    return this.#trying(() => this.#append(bytes));
  }

  /** Puts the file into its place. */
  finish(): Promise<void> {
    return this.#trying(async () => {
      if (!this.#open) return;
      const { handle, folder, target } = this.#open;
      await handle.write(this.#hash.digest(), 0, digestBytes, this.#position);
      await handle.close();
      await rename(join(folder, "matrix"), target);
      await rm(folder, { recursive: true });
      this.#open = null;
    });
  }

  /** Leaves nothing behind, unless `finish` has been called. */
  async abandon(): Promise<void> {
    const files = this.#open;
    this.#open = null;
    await files?.handle.close().catch(() => {});
    if (files) await rm(files.folder, { recursive: true, force: true }).catch(() => {});
  }

  async #append(bytes: Uint8Array): Promise<void> {
    if (!this.#open) return;
    this.#hash.update(bytes);
    let done = 0;
    while (done < bytes.length) {
      const { bytesWritten } = await this.#open.handle.write(
        bytes,
        done,
        bytes.length - done,
        this.#position,
      );
      done += bytesWritten;
      this.#position += bytesWritten;
    }
  }

  async #trying(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      await this.abandon();
      this.#onFailure(error);
    }
  }
}
