/** Grammars and matchers in xgrammar: the part of a matcher thread that knows the library. */
import type { CompiledGrammar, GrammarCompiler, GrammarMatcher } from "@mlc-ai/web-xgrammar";
import type { GrammarSource, MatcherModel, Move, MoveResult, Vocabulary } from "./protocol.ts";
import type { XGrammar } from "./xgrammar.ts";

/** Every method throws what the library throws when it aborts; after that, nothing here may be used. */
export class Matchers {
  readonly #library: XGrammar;
  readonly #compiler: GrammarCompiler;
  readonly #vocabSize: number;
  readonly #stopIds: readonly number[];
  readonly #grammars = new Map<number, CompiledGrammar>();
  readonly #matchers = new Map<number, GrammarMatcher>();

  static async create(library: XGrammar, model: MatcherModel): Promise<Matchers> {
    const { vocabulary, vocabSize, stopIds } = model;
    // The library takes bytes where its types say text: a token may be a part of a character.
    const tokens = tokensOf(vocabulary, vocabSize) as unknown as string[];
    const info = await library.TokenizerInfo.createTokenizerInfo(tokens, "raw", false, vocabSize, [
      ...stopIds,
    ]);
    // Grammars are kept, and forgotten, by whoever owns this thread.
    const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false);
    return new Matchers(library, compiler, model);
  }

  private constructor(library: XGrammar, compiler: GrammarCompiler, { vocabSize, stopIds }: MatcherModel) {
    this.#library = library;
    this.#compiler = compiler;
    this.#vocabSize = vocabSize;
    this.#stopIds = stopIds;
  }

  async compile(grammar: number, { kind, text }: GrammarSource): Promise<void> {
    const compiled =
      kind === "tag"
        ? await this.#compiler.compileStructuralTag(text)
        : await this.#compiler.compileGrammar(text);
    this.#grammars.set(grammar, compiled);
  }

  forget(grammar: number): void {
    this.#grammars.get(grammar)?.dispose();
    this.#grammars.delete(grammar);
  }

  async move({ matcher: number, grammar, ids }: Move): Promise<MoveResult> {
    const matcher = this.#matchers.get(number) ?? (await this.#create(number, grammar));
    const isAccepted = ids.every((id) => matcher.acceptToken(id));
    // The library aborts when asked what comes after the end.
    if (matcher.isTerminated()) return { mask: new Uint32Array(0), state: "ended" };
    const mask = new Uint32Array((await matcher.getNextTokenBitmask()).slice().buffer);
    // Bits behind the vocabulary come as they may.
    if (this.#vocabSize % 32 > 0) mask[mask.length - 1] &= 2 ** (this.#vocabSize % 32) - 1;
    return { mask, state: isAccepted ? stateOf(mask, this.#stopIds) : "dead" };
  }

  close(matcher: number): void {
    this.#matchers.get(matcher)?.dispose();
    this.#matchers.delete(matcher);
  }

  async #create(number: number, grammar: number): Promise<GrammarMatcher> {
    const compiled = this.#grammars.get(grammar);
    if (!compiled) throw new Error(`Cannot match grammar ${grammar}: it is not compiled`);
    const matcher = await this.#library.GrammarMatcher.createGrammarMatcher(compiled);
    this.#matchers.set(number, matcher);
    return matcher;
  }
}

/** The answer has ended where nothing but a stop id may come. */
function stateOf(mask: Uint32Array, stopIds: readonly number[]): MoveResult["state"] {
  const rest = mask.slice();
  let stops = 0;
  for (const id of stopIds) {
    const [word, bit] = [id >>> 5, 1 << (id & 31)];
    if ((rest[word] & bit) !== 0) stops++;
    rest[word] &= ~bit;
  }
  if (rest.some((word) => word !== 0)) return "open";
  return stops > 0 ? "ended" : "dead";
}

function tokensOf({ bytes, ends }: Vocabulary, vocabSize: number): Uint8Array[] {
  return Array.from(ends.subarray(0, vocabSize), (end, id) =>
    bytes.subarray(id === 0 ? 0 : ends[id - 1], end),
  );
}
