/** Messages between the engine's thread and a thread of matchers. All are plain data for structured clone. */

/** What a matcher thread compiles. Equal texts are one grammar. */
export interface GrammarSource {
  /** EBNF, or a structural tag as JSON. */
  kind: "ebnf" | "tag";
  text: string;
  /** The request's parameter that it came from, for errors. */
  param: string | null;
}

/** The bytes of every token, one behind the other; a token without text of its own (a special one) has none. */
export interface Vocabulary {
  bytes: Uint8Array;
  /** Where the bytes of each token end. */
  ends: Uint32Array;
}

export interface MatcherModel {
  vocabulary: Vocabulary;
  /** Of the logits: ids beyond the vocabulary are never allowed. */
  vocabSize: number;
  /** Ids that are allowed where the grammar is complete, and only there. */
  stopIds: readonly number[];
}

/** Takes a matcher on by these ids; an unknown one is made first, of the grammar with this number. */
export interface Move {
  matcher: number;
  grammar: number;
  ids: readonly number[];
}

export interface MoveResult {
  /** Ids that may come next, a bit each. */
  mask: Uint32Array;
  /** "ended": there is nothing that could follow. "dead": no answer begins with these ids, in this vocabulary. */
  state: "open" | "ended" | "dead";
}

/** All but `forget` and `close` are answered, one after the other. */
export type ToMatchers =
  | { type: "start"; model: MatcherModel }
  | { type: "compile"; grammar: number; source: GrammarSource }
  | { type: "move"; moves: readonly Move[] }
  | { type: "forget"; grammar: number }
  | { type: "close"; matcher: number };

export type FromMatchers =
  | { type: "done"; results: MoveResult[] }
  /** The library has given up: its instance is not to be trusted any more. `message` is what it said. */
  | { type: "failed"; message: string };
