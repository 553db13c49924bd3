/**
 * The grammars that answers follow: which of a few hosts compiles one, and a guide for each answer.
 *
 * A host serves its answers with one thread, so while that compiles a new grammar they wait: a new one goes to a host
 * that has nothing to do, as long as there is one or may be one more.
 */
import { GRAMMAR_THREADS_MAX } from "../../limits.ts";
import { InvalidRequestError } from "../errors.ts";
import type { EngineStats } from "../stats.ts";
import type { StartTimer } from "../timer.ts";
import { type FollowedAnswer, GrammarHost } from "./grammar-host.ts";
import type { GrammarSource, MatcherModel, Vocabulary } from "./protocol.ts";

export interface PoolOptions extends Omit<MatcherModel, "vocabulary"> {
  createWorker: () => Worker;
  startTimer: StartTimer;
}

/** What one answer may say next. */
export class Guide implements FollowedAnswer {
  readonly number: number;
  readonly source: GrammarSource;
  readonly ids: number[] = [];
  readonly #host: GrammarHost;
  #mask: Uint32Array = new Uint32Array(0);
  #hasEnded = false;

  constructor(number: number, source: GrammarSource, host: GrammarHost) {
    this.number = number;
    this.source = source;
    this.#host = host;
  }

  /** Ids that may come after those followed so far, a bit each. */
  get mask(): Uint32Array {
    return this.#mask;
  }

  /** The grammar is complete and allows nothing more. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Follows the answer by these ids. Throws `InvalidRequestError` when the grammar cannot go on. */
  async follow(ids: readonly number[]): Promise<void> {
    this.ids.push(...ids);
    const { mask, state } = await this.#host.move(this);
    if (state === "dead") {
      throw new InvalidRequestError(
        "Cannot follow the grammar: expected a token that it allows next, got none that the model's vocabulary and the request's other parameters leave",
        this.source.param,
      );
    }
    this.#mask = mask;
    this.#hasEnded = state === "ended";
  }

  close(): void {
    this.#host.forget(this);
  }
}

export class GrammarPool {
  readonly #options: PoolOptions;
  readonly #hosts: GrammarHost[] = [];
  #vocabulary: Vocabulary | null = null;
  #guideCount = 0;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** Needed before the first grammar. */
  useVocabulary(vocabulary: Vocabulary): void {
    this.#vocabulary = vocabulary;
  }

  /**
   * A guide for each of `count` answers, at their beginning. Throws `InvalidRequestError` for a grammar that cannot be
   * compiled, or not in time, `QueueFullError`, or the signal's reason.
   */
  async open(source: GrammarSource, count: number, signal: AbortSignal): Promise<Guide[]> {
    const host = this.#hostFor(source);
    await host.compile(source, signal);
    const guides = Array.from({ length: count }, () => new Guide(++this.#guideCount, source, host));
    try {
      await Promise.all(guides.map((guide) => guide.follow([])));
    } catch (error) {
      for (const guide of guides) guide.close();
      throw error;
    }
    return guides;
  }

  stats(): EngineStats["grammars"] {
    const sum = (count: (host: GrammarHost) => number) =>
      this.#hosts.reduce((total, host) => total + count(host), 0);
    return { kept: sum(({ grammarCount }) => grammarCount), threadLosses: sum(({ losses }) => losses) };
  }

  close(): void {
    for (const host of this.#hosts) host.close();
  }

  #hostFor(source: GrammarSource): GrammarHost {
    const byLoad = this.#hosts.toSorted((a, b) => a.load - b.load);
    const known = byLoad.find((host) => host.has(source));
    if (known) return known;
    if (byLoad.length > 0 && (byLoad[0].load === 0 || byLoad.length >= GRAMMAR_THREADS_MAX)) return byLoad[0];
    if (!this.#vocabulary) throw new Error("Cannot compile a grammar: the vocabulary is not known yet");
    const { createWorker, startTimer, ...model } = this.#options;
    const host = new GrammarHost({
      model: { ...model, vocabulary: this.#vocabulary },
      createWorker,
      startTimer,
    });
    this.#hosts.push(host);
    return host;
  }
}
