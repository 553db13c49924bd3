/** Checkpoints made for a test: whole, in shards, or damaged on purpose; and a plain reader to compare with. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A tensor with its bytes. */
export interface TestTensor {
  name: string;
  dtype: string;
  shape: readonly number[];
  bytes: Uint8Array;
}

export interface TestHeaderEntry {
  dtype: string;
  shape: readonly number[];
  data_offsets: readonly [number, number];
}

/** Runs `body` with an empty folder that is gone afterwards. */
export async function withTempDir<T>(body: (dir: string) => T | Promise<T>): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), "prelude-checkpoint-"));
  try {
    return await body(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** A safetensors file's bytes. `header` may be text that is no JSON, `headerBytes` a length that is a lie. */
export function safetensorsBytes(
  header: object | string,
  data: Uint8Array = new Uint8Array(0),
  headerBytes?: number | bigint,
): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerBytes ?? text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

/** Writes the tensors one behind the other into one safetensors file. */
export function writeSafetensors(path: string, tensors: readonly TestTensor[]): void {
  const header: Record<string, object> = { __metadata__: { format: "pt" } };
  const byteLength = tensors.reduce((sum, tensor) => sum + tensor.bytes.length, 0);
  const data = new Uint8Array(byteLength);
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    data.set(bytes, offset);
    offset += bytes.length;
  }
  writeFileSync(path, safetensorsBytes(header, data));
}

/** Deals the tensors out to `shardCount` shards in turn and writes them with their index. */
export function writeShards(dir: string, tensors: readonly TestTensor[], shardCount: number): void {
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < shardCount; shard++) {
    const file = `model-${String(shard + 1).padStart(5, "0")}-of-${String(shardCount).padStart(5, "0")}.safetensors`;
    const dealt = tensors.filter((_, i) => i % shardCount === shard);
    writeSafetensors(join(dir, file), dealt);
    for (const { name } of dealt) weightMap[name] = file;
  }
  writeIndex(dir, weightMap);
}

export function writeIndex(dir: string, weightMap: unknown): void {
  const index = JSON.stringify({ metadata: { total_size: 0 }, weight_map: weightMap });
  writeFileSync(join(dir, "model.safetensors.index.json"), index);
}

/** Every tensor of a safetensors file, by reading all of it at once. */
export function readWholeFile(path: string): TestTensor[] {
  const file = new Uint8Array(readFileSync(path));
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const text = new TextDecoder().decode(file.subarray(8, 8 + headerBytes));
  const header = JSON.parse(text) as Record<string, TestHeaderEntry>;
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return entries.map(([name, { dtype, shape, data_offsets }]) => {
    const [begin, end] = data_offsets.map((offset) => 8 + headerBytes + offset);
    return { name, dtype, shape, bytes: file.slice(begin, end) };
  });
}
