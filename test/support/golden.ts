/** Prompts of the golden files, as ids. */
import { readFileSync } from "node:fs";
import { tinyModel } from "./served.ts";
import { shared } from "./shared.ts";

export interface GoldenModel {
  name: string;
  dir: string;
  isPrefixLm: boolean;
  /** Different ones, a few to about twenty tokens long. */
  prompts: readonly (readonly number[])[];
}

interface Translation {
  prompt_ids: number[];
  /** What the greedy run of transformers gave, the end id included, and the log-probability of each. */
  output_ids: number[];
  output_logprobs: number[];
}

interface Story {
  prompt_ids: number[];
  greedy_ids: number[];
}

const translations = JSON.parse(readFileSync(`${tinyModel}/golden.json`, "utf8")) as Translation[];

/** The embedded model, a Prefix LM. */
export const prefixLm: GoldenModel = {
  name: "hrm-text-tiny",
  dir: tinyModel,
  isPrefixLm: true,
  prompts: [7, 8, 9, 10, 13, 15].map((length) => promptOf(length)),
};

/** A causal model. Its prompts go on with what it says, so that some begin like others. */
export function causalModel(): GoldenModel {
  const dir = shared("models/tinystories-656k");
  const { cases } = JSON.parse(readFileSync(`${dir}/golden.json`, "utf8")) as { cases: Story[] };
  const lengths = [5, 17, 9, 6, 13, 22];
  const prompts = lengths.map((length, index) => {
    const { prompt_ids, greedy_ids } = cases[index % 3];
    return [...prompt_ids, ...greedy_ids].slice(0, length);
  });
  return { name: "tinystories-656k", dir, isPrefixLm: false, prompts };
}

/** The embedded model's first golden run with so many prompt tokens. */
export function translationOf(length: number): Translation {
  const found = translations.find(({ prompt_ids }) => prompt_ids.length === length);
  if (!found) throw new Error(`Cannot find a golden prompt of ${length} tokens`);
  return found;
}

export function promptOf(length: number): number[] {
  return translationOf(length).prompt_ids;
}

/** A prompt of any length, of golden prompts one behind the other. */
export function longPrompt(length: number): number[] {
  return translations.flatMap(({ prompt_ids }) => prompt_ids).slice(0, length);
}
