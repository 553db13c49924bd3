/**
 * Text to token ids and back, for one checkpoint.
 *
 * Owns the rule of which text may become a special token. The library underneath never sees one: its special tokens
 * are taken out before it is built, so whatever it encodes is plain text, and special tokens are found here, only where
 * the caller asks. Added tokens that are not special (`<think>` in some vocabularies) stay with the library and count everywhere.
 */
import { AddedToken, Tokenizer as Library } from "@huggingface/tokenizers";
import { CheckpointError } from "../errors.ts";
import { promptAffixes, type PromptAffixes } from "./prompt-affixes.ts";
import { plainBytes, type Spelling, spellingOf } from "./token-bytes.ts";
import { type Segment, type SpecialToken, SpecialTokens } from "./special-tokens.ts";
import {
  readTokenizerFiles,
  reason,
  type TokenizerConfig,
  type TokenizerFiles,
  type TokenizerJson,
} from "./tokenizer-files.ts";

/** In front of a vocabulary entry that no text may reach: text is well formed, so it cannot hold a lone surrogate. */
const UNREACHABLE = "\ud800";

export interface DecodeOptions {
  /** Leave special tokens out of the text (the default). */
  skipSpecialTokens?: boolean;
}

export class Tokenizer {
  /** Ids by spelling. */
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly specials: SpecialTokens;
  readonly config: TokenizerConfig;
  /** One more than the largest id. A model's own vocabulary may be padded beyond it. */
  readonly vocabSize: number;
  readonly #library: Library;
  /** Encodes text that does not begin the prompt, where the vocabulary makes a difference. */
  readonly #continuation: Library;
  readonly #vocab: readonly (string | undefined)[];
  readonly #ids: ReadonlyMap<string, number>;
  readonly #specialIds: ReadonlySet<number>;
  readonly #affixes: PromptAffixes;
  readonly #spelling: Spelling;
  /** Added tokens that are not special. */
  readonly #plainIds: ReadonlySet<number>;

  constructor({ json, config }: TokenizerFiles) {
    const added = addedTokens(json, config);
    const special = [...added.values()].filter((token) => token.special);
    this.config = config;
    this.specials = new SpecialTokens(special.map(asSpecial));
    this.specialTokens = new Map(special.map((token) => [token.content, token.id]));
    this.#specialIds = new Set(special.map((token) => token.id));
    this.#affixes = promptAffixes(json.post_processor);
    this.#spelling = spellingOf(json);
    this.#plainIds = new Set([...added.values()].filter((token) => !token.special).map(({ id }) => id));
    this.#library = buildLibrary(json, config, [...added.values()]);
    this.#continuation = continuationOf(json, this.#library);
    this.#vocab = this.#library.model?.vocab ?? [];
    this.#ids = new Map([...(this.#library.model?.tokens_to_ids ?? []), ...this.specialTokens]);
    this.vocabSize = this.#vocab.length;
  }

  idOf(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** Whether the id is a token that can show in decoded text. */
  isVisible(id: number, { skipSpecialTokens = true }: DecodeOptions = {}): boolean {
    return !(skipSpecialTokens && this.#specialIds.has(id)) && (this.#vocab[id] ?? "") !== "";
  }

  /** What the token adds to a text's bytes behind other text; none for one that is special. */
  bytesOf(id: number): Uint8Array {
    const entry = this.#vocab[id] ?? "";
    if (!this.isVisible(id)) return new Uint8Array(0);
    return this.#plainIds.has(id) ? plainBytes(entry) : this.#spelling(entry);
  }

  /** Ids of text in which nothing is special; `continues` says that something stands before it. */
  encodeText(text: string, { continues = false } = {}): number[] {
    const library = continues ? this.#continuation : this.#library;
    return library.encode(text.toWellFormed()).ids;
  }

  encodeSegments(segments: readonly Segment[]): number[] {
    return segments.flatMap((segment, i) =>
      segment.kind === "special" ? [segment.id] : this.encodeText(segment.text, { continues: i > 0 }),
    );
  }

  /** Ids of a raw prompt: special tokens spelled in it count, and the tokenizer's BOS is added unless it is there, or not wanted. */
  encodePrompt(text: string, { addSpecialTokens = true } = {}): number[] {
    const ids = this.encodeSegments(this.specials.split(text));
    if (!addSpecialTokens) return ids;
    const { prefix, suffix } = this.#affixes;
    const begins = prefix.every((id, i) => ids[i] === id);
    const ends = suffix.every((id, i) => ids[ids.length - suffix.length + i] === id);
    return [...(begins ? [] : prefix), ...ids, ...(ends ? [] : suffix)];
  }

  /** The vocabulary's own entry; "" for an id beyond it. */
  spell(id: number): string {
    return this.#vocab[id] ?? "";
  }

  /** Ids beyond the vocabulary, which a padded output layer may choose, are left out. */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const shown = ids.filter((id) => this.isVisible(id, options));
    return shown.length === 0 ? "" : this.#library.decode(shown, { clean_up_tokenization_spaces: false });
  }
}

/** Throws `CheckpointError` for files that are missing, damaged, or of a kind that is not supported. */
export function loadTokenizer(dir: string): Tokenizer {
  const files = readTokenizerFiles(dir);
  try {
    return new Tokenizer(files);
  } catch (error) {
    throw new CheckpointError(
      `Cannot build the tokenizer of ${dir}: expected a supported tokenizer.json, got ${reason(error)}`,
      {
        cause: error,
      },
    );
  }
}

type Added = TokenizerJson["added_tokens"][number];

/** Added tokens of both files by id. Special is what either file calls so, and BOS and EOS always are. */
function addedTokens(json: TokenizerJson, config: TokenizerConfig): Map<number, Added> {
  const added = new Map(json.added_tokens.map((token) => [token.id, token]));
  for (const [key, token] of Object.entries(config.added_tokens_decoder)) {
    const id = Number(key);
    const known = added.get(id);
    added.set(
      id,
      known === undefined ? { ...token, id } : { ...known, special: known.special || token.special },
    );
  }
  for (const [id, token] of added) {
    if (token.content === config.bos_token || token.content === config.eos_token)
      added.set(id, { ...token, special: true });
  }
  return added;
}

function asSpecial({ id, content, lstrip, rstrip, single_word }: Added): SpecialToken {
  return { id, content, lstrip, rstrip, singleWord: single_word };
}

/** The library's tokenizer, blind to special tokens when it encodes and aware of them when it decodes. */
function buildLibrary(json: TokenizerJson, config: TokenizerConfig, added: readonly Added[]): Library {
  const special = added.filter((token) => token.special);
  const plain = {
    ...json,
    model: withoutSpecial(json.model, new Set(special.map((token) => token.content))),
    added_tokens: added.filter((token) => !token.special),
    post_processor: null,
  };
  const library = new Library(plain, { eos_token: config.eos_token });
  for (const { id, content } of special) if (library.model) library.model.vocab[id] = content;
  if (library.decoder) library.decoder.added_tokens = added.map((token) => new AddedToken(token));
  return library;
}

/**
 * The model with its special entries out of reach: a vocabulary that holds them could match one in plain text as a whole.
 * An entry that ordinary text spells (one character, or the product of a merge), and the unknown token, stay.
 */
function withoutSpecial(model: TokenizerJson["model"], special: ReadonlySet<string>): TokenizerJson["model"] {
  const hidden = new Set([...special].filter((content) => [...content].length > 1));
  if (model.type === "Unigram") {
    const vocab = model.vocab.map(([piece, score], id): [string, number] =>
      hidden.has(piece) && id !== model.unk_id ? [UNREACHABLE + piece, score] : [piece, score],
    );
    return { ...model, vocab };
  }
  for (const merge of model.merges)
    hidden.delete(typeof merge === "string" ? merge.replace(" ", "") : merge.join(""));
  if (model.unk_token) hidden.delete(model.unk_token);
  if (![...hidden].some((token) => Object.hasOwn(model.vocab, token))) return model;
  const vocab = Object.entries(model.vocab).map(([token, id]) => [
    hidden.has(token) ? UNREACHABLE + token : token,
    id,
  ]);
  return { ...model, vocab: Object.fromEntries(vocab) as Record<string, number> };
}

/** Llama's newer vocabularies put a space before the first text only; the library sees each text as a first one. */
function continuationOf(json: TokenizerJson, library: Library): Library {
  const preTokenizer = withoutFirstSpace(json.pre_tokenizer);
  if (JSON.stringify(preTokenizer) === JSON.stringify(json.pre_tokenizer)) return library;
  const emptyModel = { type: "BPE", vocab: {}, merges: [] };
  const added = [...library.get_added_tokens_decoder().values()];
  const continuation = new Library(
    { ...json, model: emptyModel, pre_tokenizer: preTokenizer, added_tokens: added, post_processor: null },
    {},
  );
  continuation.model = library.model;
  return continuation;
}

function withoutFirstSpace(preTokenizer: unknown): unknown {
  if (typeof preTokenizer !== "object" || preTokenizer === null) return preTokenizer;
  const part = preTokenizer as { type?: unknown; prepend_scheme?: unknown; pretokenizers?: unknown };
  if (part.type === "Metaspace" && part.prepend_scheme === "first")
    return { ...part, prepend_scheme: "never" };
  if (!Array.isArray(part.pretokenizers)) return part;
  return { ...part, pretokenizers: part.pretokenizers.map(withoutFirstSpace) };
}
