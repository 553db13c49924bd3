/**
 * Sequences of ids that an output must not contain: when it ends with all but the last id of one, that id is banned.
 *
 * As in vLLM (v1/sample/ops/bad_words.py) the ids before are looked for in the output only, not in the prompt. Turning
 * a word into its sequences, with and without a space before it, is the business of whoever has the tokenizer.
 */
export class BadWords {
  /** Some word is longer than one id. */
  readonly needsKnownIds: boolean;
  readonly #single: readonly number[];
  readonly #longer: readonly (readonly number[])[];

  /** Throws on an empty sequence, which would forbid everything. */
  constructor(words: readonly (readonly number[])[]) {
    if (words.some(({ length }) => length === 0)) {
      throw new Error("Cannot forbid a word: expected at least one token, got none");
    }
    this.#single = words.filter(({ length }) => length === 1).map(([id]) => id);
    this.#longer = words.filter(({ length }) => length > 1);
    this.needsKnownIds = this.#longer.length > 0;
  }

  /** The ids that must not come next; the set is the caller's. */
  lastIds(outputIds: readonly number[]): Set<number> {
    const banned = new Set(this.#single);
    for (const word of this.#longer) if (isBegun(word, outputIds)) banned.add(word[word.length - 1]);
    return banned;
  }
}

/** Whether the output ends with all but the last id of the word. */
function isBegun(word: readonly number[], outputIds: readonly number[]): boolean {
  const start = outputIds.length - (word.length - 1);
  if (start < 0) return false;
  for (let index = 0; index < word.length - 1; index++) {
    if (outputIds[start + index] !== word[index]) return false;
  }
  return true;
}
