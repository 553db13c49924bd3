import type { Tokenizer } from "../text/tokenizer.ts";
import type { Vocabulary } from "./protocol.ts";

/** A tokenizer's tokens as a matcher knows them. */
export function vocabularyOf(tokenizer: Pick<Tokenizer, "vocabSize" | "bytesOf">): Vocabulary {
  const tokens = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.bytesOf(id));
  const bytes = new Uint8Array(tokens.reduce((sum, { length }) => sum + length, 0));
  const ends = new Uint32Array(tokens.length);
  let end = 0;
  tokens.forEach((token, id) => {
    bytes.set(token, end);
    end += token.length;
    ends[id] = end;
  });
  return { bytes, ends };
}
