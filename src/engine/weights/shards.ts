/**
 * Which files a checkpoint folder's tensors lie in: one `model.safetensors`, or the shards that
 * `model.safetensors.index.json` names. The single file wins where both are there, as in transformers.
 */
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { checked, checkpointFault, readJsonFile, show } from "./json-file.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";
/** Longest index accepted. */
const INDEX_BYTES_MAX = 100_000_000;
/** Most shards, each of which is a file kept open. */
export const SHARDS_MAX = 1024;

const indexSchema = z.object(
  {
    weight_map: z.record(z.string(), z.string("the name of a shard"), "an object of tensor names and shards"),
  },
  "an object with a weight_map",
);

/** File name to the tensors wanted from it; null stands for all that the file has. */
export type ShardPlan = ReadonlyMap<string, readonly string[] | null>;

/** Throws `CheckpointError` when the folder holds neither layout or its index is damaged. */
export async function planShards(dir: string): Promise<ShardPlan> {
  if (existsSync(join(dir, SINGLE_FILE))) return new Map([[SINGLE_FILE, null]]);
  const file = join(dir, INDEX_FILE);
  if (!existsSync(file)) {
    throw checkpointFault({ file: dir, expected: `${SINGLE_FILE} or ${INDEX_FILE}`, found: "neither" });
  }
  const { weight_map } = checked(indexSchema, await readJsonFile(file, INDEX_BYTES_MAX), { file });
  const plan = new Map<string, string[]>();
  for (const [tensor, shard] of Object.entries(weight_map)) {
    checkShardName({ dir, file, tensor, shard, known: plan.has(shard) });
    const wanted = plan.get(shard) ?? [];
    wanted.push(tensor);
    plan.set(shard, wanted);
  }
  if (plan.size === 0 || plan.size > SHARDS_MAX) {
    throw checkpointFault({ file, expected: `1 to ${SHARDS_MAX} shards`, found: `${plan.size}` });
  }
  return plan;
}

interface ShardName {
  dir: string;
  file: string;
  tensor: string;
  shard: string;
  known: boolean;
}

function checkShardName({ dir, file, tensor, shard, known }: ShardName): void {
  if (known) return;
  const part = `tensor ${show(tensor)}`;
  // A shard lies beside its index: a name with folders in it could reach any file of the machine.
  if (basename(shard) !== shard || shard.includes("\\") || shard === "" || shard === "..") {
    throw checkpointFault({ file, part, expected: "a file name without folders", found: show(shard) });
  }
  if (!existsSync(join(dir, shard))) {
    throw checkpointFault({
      file,
      part,
      expected: `shard ${show(shard)} beside the index`,
      found: "no such file",
    });
  }
}
