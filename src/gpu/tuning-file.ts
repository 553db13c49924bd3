/**
 * Tunings on disk: a JSON file an adapter, runtime and set of kernels. It is a convenience: one that is damaged or was
 * made elsewhere is not used, which is said, and is no error.
 */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { z } from "zod";
import { cacheFolder } from "../cache-folder.ts";
import { TUNING_FILE_BYTES_MAX, TUNING_SHAPES_MAX } from "../limits.ts";
import type { Gpu } from "./gpu.ts";
import { readWgsl } from "./pipelines.ts";
import { bytesPerElement, type Dtype } from "./tensor.ts";
import { isSameShape, type TunedShape, type Tuning } from "./tuning.ts";

/** Files whose variants are chosen among. */
const tunableFiles = [
  "attention-decode",
  "combine-linear",
  "fused-linear",
  "gemm",
  "linear-cpu",
  "linear-cpu-subgroup",
  "linear-matmul",
  "qkv-decode",
];

/** What a tuning holds for, and nothing else. */
interface TuningKey {
  /** With its driver, where the runtime tells. */
  adapter: string;
  runtime: string;
  /** Of the kernels' sources. */
  kernels: string;
}

const count = z.number().int().positive();
const fileSchema = z.strictObject({
  adapter: z.string(),
  runtime: z.string(),
  kernels: z.string(),
  shapes: z
    .array(
      z.strictObject({
        shape: z.strictObject({
          kernel: z.string(),
          rows: count,
          inputs: count,
          tokens: count,
          format: z.enum(Object.keys(bytesPerElement) as [Dtype, ...Dtype[]]),
        }),
        choice: z.record(z.string(), z.union([z.number(), z.boolean(), z.array(z.number())])),
      }),
    )
    .max(TUNING_SHAPES_MAX),
});

export interface FoundTuning {
  tuning: Tuning;
  /** A line for people: what is used, or why it is not. Null where there is nothing to say. */
  note: string | null;
}

const nothing: FoundTuning = { tuning: [], note: null };

/** The file that belongs to this adapter and runtime. */
export function tuningFile(gpu: Gpu): string {
  const { adapter, runtime } = keyOf(gpu);
  const digest = createHash("sha256").update(`${adapter}\n${runtime}`).digest("hex").slice(0, 16);
  return join(cacheFolder(), "tuning", `${digest}.json`);
}

/** Reads the tuning at `path`, or the one that belongs to this adapter if there is one (`auto`). */
export async function readTuning(gpu: Gpu, path: string): Promise<FoundTuning> {
  const file = path === "auto" ? tuningFile(gpu) : path;
  const ignored = (why: string) => ({ tuning: [], note: `Ignoring the tuning ${file}: ${why}` });
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    return path === "auto" && isMissing(error) ? nothing : ignored(String(error));
  }
  if (text.length > TUNING_FILE_BYTES_MAX) return ignored(`expected ${TUNING_FILE_BYTES_MAX} bytes at most`);
  const parsed = fileSchema.safeParse(jsonOf(text));
  if (!parsed.success) return ignored("expected a file that prelude tune wrote");
  const { shapes, ...found } = parsed.data;
  const wanted = keyOf(gpu);
  for (const name of ["adapter", "runtime", "kernels"] as const) {
    if (found[name] !== wanted[name])
      return ignored(`made for ${name} ${found[name]}, not ${wanted[name]}; prelude tune makes it anew`);
  }
  return { tuning: shapes, note: `${shapes.length} shapes as tuned by ${file}` };
}

export interface MeasuredTuning {
  /** Shapes for which something is faster than the default. */
  faster: Tuning;
  /** All that were measured. */
  measured: readonly TunedShape["shape"][];
}

/** Puts what was measured into the file, beside what it knows of other shapes. Gives the file's name. */
export async function writeTuning(
  gpu: Gpu,
  path: string,
  { faster, measured }: MeasuredTuning,
): Promise<string> {
  const file = path === "auto" ? tuningFile(gpu) : path;
  const { tuning } = await readTuning(gpu, path);
  const others = tuning.filter(({ shape }) => !measured.some((each) => isSameShape(each, shape)));
  const shapes = [...faster, ...others].slice(0, TUNING_SHAPES_MAX);
  const folder = dirname(file);
  await mkdir(folder, { recursive: true });
  const fresh = await mkdtemp(join(folder, "new-")); // of this process alone
  try {
    await writeFile(join(fresh, "tuning.json"), `${JSON.stringify({ ...keyOf(gpu), shapes }, null, 1)}\n`);
    await rename(join(fresh, "tuning.json"), file);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  return file;
}

function keyOf({ adapterId, implementation }: Gpu): TuningKey {
  const { bun, deno } = process.versions as { bun?: string; deno?: string };
  const runtime = `${bun === undefined ? `deno ${deno}` : `bun ${bun}`} ${implementation}`;
  const hash = createHash("sha256");
  for (const file of tunableFiles) hash.update(readWgsl(file));
  return { adapter: adapterId, runtime, kernels: hash.digest("hex").slice(0, 16) };
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === "ENOENT";
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
