/** What is asked: random prompts of given lengths, behind a prefix that they may share. */
import { SetupError } from "../../errors.ts";
import { Random } from "./random.ts";

export interface WorkloadOptions {
  promptCount: number;
  /** Requests of the same kind that are sent before the load and not measured. */
  warmupCount: number;
  seed: number;
  /** Token ids make lengths exact; text is for endpoints that take no ids, a word being about a token. */
  format: "ids" | "text";
  /** Ids are drawn from 0 to this, itself left out. */
  vocabSize: number;
  /** Tokens of a prompt without the shared prefix, and of an answer, on average. */
  inputLength: number;
  outputLength: number;
  /** Tokens that all prompts begin with. */
  prefixLength: number;
  /** Lengths are uniform within this share around the average: from 0 (none) to below 1. */
  rangeRatio: number;
}

export interface Prompt {
  content: string | number[];
  /** Of text, the words. */
  promptTokens: number;
  /** Most tokens to answer with. */
  outputTokens: number;
}

export interface Workload {
  prompts: Prompt[];
  warmups: Prompt[];
}

/** Short and common, so that most tokenizers give each, with the space before it, one token. */
const words = (
  "the of and to in is was for on that by this with from at his not are but had her they which or one you were " +
  "all she there would their we him been has when who will no more if out so up said what its about than into " +
  "them can only other time new some could these two may first then do any like my now over such our man me even " +
  "most made after also well way must before back year where much your work down long own day good life water"
).split(" ");

/** Lengths are drawn from `[low, high]`, both included, as vLLM's random data set draws them. */
export function lengthRange(average: number, rangeRatio: number): [low: number, high: number] {
  return [Math.floor(average * (1 - rangeRatio)), Math.ceil(average * (1 + rangeRatio))];
}

/** The most tokens of prompt and answer that a request of this workload may have. */
export function tokensMax({ inputLength, outputLength, prefixLength, rangeRatio }: WorkloadOptions): number {
  const [, inputMax] = lengthRange(inputLength, rangeRatio);
  const [, outputMax] = lengthRange(outputLength, rangeRatio);
  return prefixLength + inputMax + outputMax;
}

/**
 * Draws all prompts. Those of the warm-up have a prefix of their own: the measured ones meet a cold cache.
 * Throws `SetupError` if a prompt could be empty.
 */
export function createWorkload(options: WorkloadOptions): Workload {
  const { inputLength, prefixLength, rangeRatio, promptCount, warmupCount } = options;
  const [inputMin] = lengthRange(inputLength, rangeRatio);
  if (prefixLength + inputMin < 1) {
    const found = `${prefixLength} + ${inputMin} (--random-prefix-len and the least of --random-input-len)`;
    throw new SetupError(`Cannot make prompts: expected at least one token in each, got ${found}`);
  }
  return {
    prompts: drawPrompts(promptCount, "load", options),
    warmups: drawPrompts(warmupCount, "warm-up", options),
  };
}

function drawPrompts(count: number, name: string, options: WorkloadOptions): Prompt[] {
  const { seed, inputLength, outputLength, prefixLength, rangeRatio } = options;
  const lengths = new Random(seed, `${name} lengths`);
  const contents = new Random(seed, `${name} contents`);
  const prefix = drawIndices(prefixLength, contents, options);
  const [outputMin, outputMax] = lengthRange(outputLength, rangeRatio);
  return Array.from({ length: count }, () => {
    const inputTokens = lengths.integer(...lengthRange(inputLength, rangeRatio));
    const outputTokens = lengths.integer(Math.max(1, outputMin), outputMax);
    const indices = [...prefix, ...drawIndices(inputTokens, contents, options)];
    const content = options.format === "ids" ? indices : indices.map((index) => words[index]).join(" ");
    return { content, promptTokens: indices.length, outputTokens };
  });
}

function drawIndices(count: number, random: Random, { format, vocabSize }: WorkloadOptions): number[] {
  const last = (format === "ids" ? vocabSize : words.length) - 1;
  return Array.from({ length: count }, () => random.integer(0, last));
}
