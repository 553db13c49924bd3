/** `generation_config.json`: where a generation ends and how its tokens are chosen unless the request says. */
import { z } from "zod";
import type { SamplingParams } from "../client.ts";
import { tokenIds } from "./config-schema.ts";
import { checked } from "./json-file.ts";

export type DefaultSampling = Pick<SamplingParams, "temperature" | "topP" | "topK" | "minP">;

export interface GenerationDefaults {
  /** Null: the file does not say. */
  eosTokenIds: readonly number[] | null;
  bosTokenId: number | null;
  sampling: DefaultSampling;
}

const share = z.number("a number from 0 to 1").min(0, "a number from 0 to 1").max(1, "a number from 0 to 1");
const schema = z.object(
  {
    eos_token_id: tokenIds,
    bos_token_id: z.int("a token id").nonnegative("a token id").nullish(),
    do_sample: z.boolean("true or false").nullish(),
    temperature: z.number("a number of at least 0").nonnegative("a number of at least 0").nullish(),
    top_p: share.nullish(),
    top_k: z.int("a whole number of at least 0").nonnegative("a whole number of at least 0").nullish(),
    min_p: share.nullish(),
  },
  "an object",
);

/**
 * Defaults of a parsed `generation_config.json`, or of a checkpoint without one (`value` null). What the file leaves
 * open is neutral: temperature 1 and no filter, as OpenAI's API has it, rather than transformers' greedy search.
 * Throws `CheckpointError`.
 */
export function parseGenerationConfig(value: unknown, file: string): GenerationDefaults {
  const raw = checked(schema, value ?? {}, { file });
  const temperature = raw.do_sample === false ? 0 : (raw.temperature ?? 1);
  return {
    eosTokenIds: raw.eos_token_id,
    bosTokenId: raw.bos_token_id ?? null,
    sampling: { temperature, topP: raw.top_p ?? 1, topK: raw.top_k ?? 0, minP: raw.min_p ?? 0 },
  };
}
