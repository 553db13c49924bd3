/**
 * What a request wants changed about the logits before a token is drawn: biases, penalties and bans.
 *
 * The meaning of each parameter, and their order, is vLLM's (v1/sample: sampler.py, ops/penalties.py, ops/bad_words.py,
 * logits_processor/builtin.py): logit_bias is added; then the repetition penalty divides positive and multiplies other
 * logits of tokens in prompt or output; then frequency and presence penalties are subtracted, for tokens in the output
 * only. A banned token stays banned whatever else applies to it. Knows no device: the entries are those of the kernel
 * `adjust-logits`, the mask that of `mask-logits`.
 */
import {
  type Adjustment,
  ADJUSTMENT_WORDS,
  FORBIDDEN_LOGIT,
  writeAdjustment,
} from "../../gpu/kernels/adjust-logits.ts";
import { maskWords } from "../../gpu/kernels/mask-logits.ts";
import { BadWords } from "./bad-words.ts";

/** Plain data; ids lie in the vocabulary (whoever accepts the request checks that). */
export interface PenaltyParams {
  /** Subtracted once from tokens that occur in the output; 0 is none. */
  presence: number;
  /** Subtracted for each occurrence in the output; 0 is none. */
  frequency: number;
  /** Above 0; over 1 makes tokens of prompt and output less likely; 1 is none. */
  repetition: number;
  /** Added to the logit of a token. */
  logitBias: ReadonlyMap<number, number>;
  /** Tokens to generate before one of `stopIds` may come. */
  minTokens: number;
  /** What `minTokens` holds back: the end-of-text ids, also under ignore_eos, and the request's own stop ids. */
  stopIds: readonly number[];
  /** Sequences of ids that the output must not contain. */
  badWords: readonly (readonly number[])[];
}

export const noPenalties: PenaltyParams = {
  presence: 0,
  frequency: 0,
  repetition: 1,
  logitBias: new Map(),
  minTokens: 0,
  stopIds: [],
  badWords: [],
};

/** The penalties of one sequence. Follows its output; sequences of one request need one each. */
export class Penalties {
  /** The next entries depend on the last token: the sequence can be scheduled only when no id is pending. */
  readonly needsKnownIds: boolean;
  readonly #params: PenaltyParams;
  readonly #badWords: BadWords;
  readonly #isCounting: boolean;
  /** How often each id occurs in the output; 0 for one that is only in the prompt. */
  readonly #counts = new Map<number, number>();
  #seen = 0;

  /** Throws on an empty bad word. */
  constructor(params: PenaltyParams, promptIds: readonly number[]) {
    const { presence, frequency, repetition, badWords } = params;
    this.#params = params;
    this.#badWords = new BadWords(badWords);
    this.#isCounting = presence !== 0 || frequency !== 0 || repetition !== 1;
    this.needsKnownIds = this.#isCounting || this.#badWords.needsKnownIds;
    if (repetition !== 1) for (const id of promptIds) this.#counts.set(id, 0);
  }

  /**
   * What to change before drawing the token after `generated` tokens, of which `outputIds` are known: u32 words
   * [entries, 4] as `writeAdjustment` writes them, with the token as element; no two for one token. The caller owns
   * them. `outputIds` only grows between calls; all of it must be known if `needsKnownIds`.
   */
  entries(outputIds: readonly number[], generated: number): Uint32Array {
    this.#follow(outputIds, generated);
    const { logitBias } = this.#params;
    const banned = this.#banned(outputIds, generated);
    const most = logitBias.size + this.#counts.size + banned.size;
    const words = new Uint32Array(most * ADJUSTMENT_WORDS);
    let count = 0;
    const add = (adjustment: Adjustment) => writeAdjustment(words, count++, adjustment);
    for (const element of banned) add({ element, addition: FORBIDDEN_LOGIT });
    for (const [id, times] of this.#counts) if (!banned.has(id)) add(this.#penalised(id, times));
    for (const [element, bias] of logitBias) {
      if (!banned.has(element) && !this.#counts.has(element)) add({ element, bias });
    }
    return words.subarray(0, count * ADJUSTMENT_WORDS);
  }

  #penalised(element: number, times: number): Adjustment {
    const { presence, frequency, repetition, logitBias } = this.#params;
    const addition = times === 0 ? 0 : -frequency * times - presence;
    return { element, bias: logitBias.get(element), penalty: repetition, addition };
  }

  #banned(outputIds: readonly number[], generated: number): ReadonlySet<number> {
    const banned = this.#badWords.lastIds(outputIds);
    if (generated < this.#params.minTokens) for (const id of this.#params.stopIds) banned.add(id);
    return banned;
  }

  /** Counts what became known since the last call. */
  #follow(outputIds: readonly number[], generated: number): void {
    const { length } = outputIds;
    const least = this.needsKnownIds ? generated : this.#seen;
    if (length < least || length > generated || length < this.#seen) {
      const expected = `from ${Math.max(least, this.#seen)} to ${generated} known ids`;
      throw new Error(
        `Cannot apply penalties after ${generated} tokens: expected ${expected}, got ${length}`,
      );
    }
    for (let at = this.#seen; at < length && this.#isCounting; at++) {
      this.#counts.set(outputIds[at], (this.#counts.get(outputIds[at]) ?? 0) + 1);
    }
    this.#seen = length;
  }
}

/** allowed_token_ids as a mask of `mask-logits`. Throws RangeError for an id outside the vocabulary. */
export function allowedMask(ids: Iterable<number>, vocab: number): Uint32Array {
  const mask = new Uint32Array(maskWords(vocab));
  for (const id of ids) {
    if (!(id >= 0 && id < vocab)) {
      throw new RangeError(`Cannot allow token ${id}: expected an id below ${vocab}`);
    }
    mask[id >>> 5] |= 1 << (id & 31);
  }
  return mask;
}
