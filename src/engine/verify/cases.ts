/**
 * What a checkpoint folder says its outputs are: `reference.json` with float32 logits beside it, and `golden.json` with
 * greedy answers. Reading only; running and judging are `verify.ts`'s.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { CheckpointError } from "../errors.ts";
import { Checkpoint } from "../weights/safetensors.ts";

/** A prompt with what must come of it. Expected arrays are null where the folder does not have them. */
export interface VerifyCase {
  name: string;
  /** Cases of a group are summed up in one line where there are many. */
  group: string;
  promptIds: number[];
  /** How much of the prompt is bidirectional. */
  prefixLength: number;
  /** The greedy continuation. */
  greedyIds: number[];
  /** f32 [prompt, vocab] */
  promptLogits: Float32Array | null;
  /** f32 [steps, vocab]: after feeding each greedy id. */
  decodeLogits: Float32Array | null;
  /** Log-probability of each greedy id. */
  logprobs: number[] | null;
  /** Some [id, logit] of the first generated token. */
  firstLogits: [number, number][] | null;
  /** The right answer to the prompt, and whether the greedy continuation is that. */
  right: { text: string; isGreedy: boolean } | null;
}

const ids = z.array(z.number().int().nonnegative());
const referenceSchema = z.object({
  cases: z.array(
    z.object({
      key: z.string(),
      mode: z.enum(["prefix", "causal"]),
      prefix_len: z.number().int().nonnegative().optional(),
      prompt_ids: ids,
      greedy_ids: ids,
    }),
  ),
});
const answerSchema = z
  .object({
    task: z.string().optional(),
    output_text: z.string().optional(),
    reference_text: z.string().optional(),
    prompt: z.string(),
    prompt_ids: ids,
    output_ids: ids.optional(),
    greedy_ids: ids.optional(),
    output_logprobs: z.array(z.number()).optional(),
    first_step_top5: z.array(z.tuple([z.number().int(), z.number()])).optional(),
  })
  .refine(({ output_ids, greedy_ids }) => output_ids ?? greedy_ids, {
    error: "Invalid input: expected output_ids or greedy_ids, received neither",
  });
const goldenSchema = z.preprocess(
  (value) => (Array.isArray(value) ? { cases: value } : value),
  z.object({ cases: z.array(answerSchema) }),
);

/** Cases of both files. Throws `CheckpointError` when the folder has neither, or one that cannot be read. */
export async function readVerifyCases(dir: string, isPrefixLm: boolean): Promise<VerifyCase[]> {
  const [reference, golden] = ["reference.json", "golden.json"].map((name) => join(dir, name));
  const cases: VerifyCase[] = [];
  if (existsSync(reference)) cases.push(...(await readReference(dir, reference)));
  if (existsSync(golden)) cases.push(...(await readGolden(golden, isPrefixLm)));
  if (cases.length === 0) {
    throw new CheckpointError(
      `Cannot verify ${dir}: expected a reference.json or golden.json in it, got neither`,
    );
  }
  return cases;
}

async function readReference(dir: string, file: string): Promise<VerifyCase[]> {
  const { cases } = await readJson(file, referenceSchema);
  const tensors = await Checkpoint.open(dir, "reference.safetensors");
  const optional = (name: string) => (tensors.has(name) ? tensors.readF32(name) : Promise.resolve(null));
  try {
    return await Promise.all(
      cases.map(async ({ key, mode, prefix_len, prompt_ids, greedy_ids }) => ({
        name: key,
        group: "reference",
        promptIds: prompt_ids,
        prefixLength: mode === "prefix" ? (prefix_len ?? prompt_ids.length) : 0,
        greedyIds: greedy_ids,
        promptLogits: await tensors.readF32(`${key}.prompt_logits`),
        decodeLogits: await optional(`${key}.decode_logits`),
        logprobs: null,
        firstLogits: null,
        right: null,
      })),
    );
  } finally {
    await tensors.close();
  }
}

async function readGolden(file: string, isPrefixLm: boolean): Promise<VerifyCase[]> {
  const { cases } = await readJson(file, goldenSchema);
  return cases.map((answer) => ({
    name: answer.prompt,
    group: answer.task ?? "golden",
    promptIds: answer.prompt_ids,
    prefixLength: isPrefixLm ? answer.prompt_ids.length : 0,
    greedyIds: answer.output_ids ?? answer.greedy_ids ?? [],
    promptLogits: null,
    decodeLogits: null,
    logprobs: answer.output_logprobs ?? null,
    firstLogits: answer.first_step_top5 ?? null,
    right: rightAnswer(answer),
  }));
}

function rightAnswer({ output_text, reference_text }: z.infer<typeof answerSchema>): VerifyCase["right"] {
  if (output_text === undefined || reference_text === undefined) return null;
  return { text: reference_text, isGreedy: output_text === reference_text };
}

async function readJson<T>(file: string, schema: z.ZodType<T>): Promise<T> {
  try {
    return schema.parse(JSON.parse(await readFile(file, "utf8")));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : String(error);
    throw new CheckpointError(`Cannot read ${file}: ${why}`);
  }
}
