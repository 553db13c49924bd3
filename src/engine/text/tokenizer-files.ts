/**
 * Reads `tokenizer.json` and `tokenizer_config.json` of a checkpoint folder, and says what is wrong with them.
 *
 * Checks the fields that this project itself reads; the rest is the tokenizer library's to judge.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { CheckpointError } from "../errors.ts";

const addedToken = z.looseObject({
  content: z.string(),
  special: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  single_word: z.boolean().default(false),
});
const bpeModel = z.looseObject({
  // Early files of GPT-2's family leave the type out.
  type: z.literal("BPE").default("BPE"),
  vocab: z.custom<Record<string, number>>(isRecord, "expected an object of ids by token"),
  merges: z.custom<string[] | [string, string][]>(Array.isArray, "expected a list of merges"),
  unk_token: z.string().nullish(),
});
const unigramModel = z.looseObject({
  type: z.literal("Unigram"),
  vocab: z.custom<[string, number][]>(Array.isArray, "expected a list of tokens with scores"),
  unk_id: z.number().nullish(),
});
const tokenizerJson = z.looseObject({
  added_tokens: z.array(addedToken.extend({ id: z.int().nonnegative() })).default([]),
  normalizer: z.unknown().default(null),
  pre_tokenizer: z.unknown().default(null),
  post_processor: z.unknown().default(null),
  decoder: z.unknown().default(null),
  model: z.union([bpeModel, unigramModel], "expected a model of type BPE or Unigram with its vocabulary"),
});

/** A special token is written as its text, or as an object that holds it. */
const tokenName = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform((token) => token.content)])
  .nullish()
  .transform((name) => name ?? undefined);
const tokenizerConfig = z.looseObject({
  bos_token: tokenName,
  eos_token: tokenName,
  unk_token: tokenName,
  pad_token: tokenName,
  sep_token: tokenName,
  cls_token: tokenName,
  mask_token: tokenName,
  added_tokens_decoder: z.record(z.string().regex(/^\d+$/), addedToken).default({}),
  chat_template: z
    .union(
      [z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))],
      "expected a string or a list of named templates",
    )
    .nullish(),
});

export type TokenizerJson = z.infer<typeof tokenizerJson>;
export type TokenizerConfig = z.infer<typeof tokenizerConfig>;

export interface TokenizerFiles {
  json: TokenizerJson;
  config: TokenizerConfig;
}

/** Both files of a checkpoint folder. Throws `CheckpointError` that names the file and the field. */
export function readTokenizerFiles(dir: string): TokenizerFiles {
  return {
    json: readChecked(join(dir, "tokenizer.json"), tokenizerJson),
    config: readChecked(join(dir, "tokenizer_config.json"), tokenizerConfig),
  };
}

function readChecked<Schema extends z.ZodType>(path: string, schema: Schema): z.infer<Schema> {
  const checked = schema.safeParse(parseJson(path, readText(path)));
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0];
  const field = issue.path.length > 0 ? issue.path.join(".") : "the file";
  throw new CheckpointError(`Cannot read ${path}: at ${field}, ${issue.message}`);
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new CheckpointError(`Cannot read ${path}: expected a readable file, got ${reason(error)}`, {
      cause: error,
    });
  }
}

function parseJson(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(
      `Cannot read ${path}: expected JSON, got ${text.length} characters that are not (${reason(error)})`,
      {
        cause: error,
      },
    );
  }
}

function isRecord(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An error's message without its stack, cut short. */
export function reason(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, 300);
}
