/**
 * The header of one safetensors file: 8 bytes of length, that many bytes of JSON, then the tensors' bytes.
 *
 * Everything the header claims is checked against the file's size before a tensor is read: as in the reference
 * implementation (github.com/huggingface/safetensors) the tensors must cover the data exactly, in some order,
 * without gap or overlap. A dtype that is not served is no fault here: buffers nobody asks for may have any.
 */
import type { FileHandle } from "node:fs/promises";
import { z } from "zod";
import { checked, checkpointFault, parseJson, show } from "./json-file.ts";

/** Longest header accepted; the limit of the reference implementation. */
export const HEADER_BYTES_MAX = 100_000_000;
/** Bytes asked of the system in one read; Node refuses 2 GiB and more. */
const READ_BYTES_MAX = 1 << 30;
const LENGTH_BYTES = 8;

/** A tensor as its header describes it, its dtype not yet judged. */
export interface HeaderEntry {
  name: string;
  dtype: string;
  shape: readonly number[];
  /** First byte, counted from the start of the file. */
  offset: number;
  byteLength: number;
}

const ENTRY = "dtype, shape and data_offsets [begin, end]";
const size = z.int("a whole number of at least 0").nonnegative("a whole number of at least 0");
const entrySchema = z.object(
  {
    dtype: z.string("the name of a dtype"),
    shape: z.array(size, "a list of dimensions"),
    data_offsets: z.tuple([size, size], "two byte offsets"),
  },
  ENTRY,
);
// Not a z.record, which would drop a tensor called "__proto__".
const headerSchema = z.custom<object>(isObject, "an object of tensors");

/** Bytes per element of every whole-byte dtype of the format, so that unserved ones are still checked for size. */
const ELEMENT_BYTES = new Map<string, number>([
  ...["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"].map((name) => [name, 1] as const),
  ...["U16", "I16", "F16", "BF16"].map((name) => [name, 2] as const),
  ...["U32", "I32", "F32"].map((name) => [name, 4] as const),
  ...["U64", "I64", "F64", "C64"].map((name) => [name, 8] as const),
]);

/** Reads and checks the header of an open file; `file` is its path for messages. Throws `CheckpointError`. */
export async function readHeader(handle: FileHandle, file: string): Promise<HeaderEntry[]> {
  const fileBytes = (await handle.stat()).size;
  const headerBytes = await readHeaderLength(handle, file, fileBytes);
  const text = await readExactly(handle, { file, offset: LENGTH_BYTES, byteLength: headerBytes });
  const header = checked(headerSchema, parseJson(decodeUtf8(text, file), file), { file });
  const dataOffset = LENGTH_BYTES + headerBytes;
  const entries = Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]) => toEntry({ name, value, file, dataOffset, fileBytes }));
  checkCover(entries, { file, dataOffset, fileBytes });
  return entries;
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function readHeaderLength(handle: FileHandle, file: string, fileBytes: number): Promise<number> {
  if (fileBytes < LENGTH_BYTES) {
    throw checkpointFault({
      file,
      expected: "8 bytes of header length",
      found: `a file of ${fileBytes} bytes`,
    });
  }
  const bytes = await readExactly(handle, { file, offset: 0, byteLength: LENGTH_BYTES });
  const length = new DataView(bytes.buffer).getBigUint64(0, true);
  if (length > BigInt(HEADER_BYTES_MAX)) {
    throw checkpointFault({
      file,
      expected: `a header of at most ${HEADER_BYTES_MAX} bytes`,
      found: `${length}`,
    });
  }
  if (LENGTH_BYTES + Number(length) > fileBytes) {
    const found = `a file of ${fileBytes} bytes`;
    throw checkpointFault({ file, expected: `${length} bytes of header behind the length`, found });
  }
  return Number(length);
}

function decodeUtf8(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw checkpointFault({ file, expected: "a header of JSON in UTF-8", found: "other bytes" });
  }
}

interface EntrySource {
  name: string;
  value: unknown;
  file: string;
  dataOffset: number;
  fileBytes: number;
}

function toEntry({ name, value, file, dataOffset, fileBytes }: EntrySource): HeaderEntry {
  const part = `tensor ${show(name)}`;
  const { dtype, shape, data_offsets } = checked(entrySchema, value, { file, part });
  const [begin, end] = data_offsets;
  if (end < begin) {
    throw checkpointFault({ file, part, expected: "data_offsets in order", found: show(data_offsets) });
  }
  if (dataOffset + end > fileBytes) {
    const expected = `data up to byte ${dataOffset + end}`;
    throw checkpointFault({ file, part, expected, found: `a file of ${fileBytes} bytes` });
  }
  const elementBytes = ELEMENT_BYTES.get(dtype);
  const needed =
    elementBytes === undefined ? end - begin : shape.reduce((product, n) => product * n, elementBytes);
  if (needed !== end - begin) {
    const expected = `${needed} bytes for ${dtype} ${show(shape)}`;
    throw checkpointFault({ file, part, expected, found: `data_offsets of ${end - begin} bytes` });
  }
  return { name, dtype, shape, offset: dataOffset + begin, byteLength: end - begin };
}

function checkCover(
  entries: readonly HeaderEntry[],
  { file, dataOffset, fileBytes }: { file: string; dataOffset: number; fileBytes: number },
): void {
  const inOrder = [...entries].sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  let next = dataOffset;
  for (const { name, offset, byteLength } of inOrder) {
    if (offset !== next) {
      const found = `byte ${offset - dataOffset} (${offset < next ? "an overlap" : "a gap"})`;
      const expected = `data to begin at byte ${next - dataOffset}`;
      throw checkpointFault({ file, part: `tensor ${show(name)}`, expected, found });
    }
    next += byteLength;
  }
  if (next !== fileBytes) {
    throw checkpointFault({ file, expected: `a file of ${next} bytes`, found: `${fileBytes} bytes` });
  }
}

/** Where to read, and what to call it in a message. */
export interface ByteRange {
  file: string;
  part?: string;
  offset: number;
  byteLength: number;
}

/**
 * Reads exactly that many bytes into a buffer of its own, at offset 0; the buffer behind it is padded with zeros
 * to a multiple of 4 bytes. Throws `CheckpointError` when the file ends early.
 */
export async function readExactly(
  handle: FileHandle,
  { file, part, offset, byteLength }: ByteRange,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(new ArrayBuffer(Math.ceil(byteLength / 4) * 4), 0, byteLength);
  for (let done = 0; done < byteLength;) {
    const want = Math.min(byteLength - done, READ_BYTES_MAX);
    const { bytesRead } = await handle.read(bytes, done, want, offset + done);
    if (bytesRead === 0) {
      const expected = `${byteLength} bytes from byte ${offset} on`;
      throw checkpointFault({ file, part, expected, found: `the file's end after ${done} bytes` });
    }
    done += bytesRead;
  }
  return bytes;
}
