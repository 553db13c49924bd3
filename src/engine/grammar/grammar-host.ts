/**
 * Compiles grammars and follows answers in one thread of matchers, which may be lost at any time: what it knew is told
 * to the next one, so that only the grammar that broke it is refused. Moves go before compiling, all that wait at once.
 */
import {
  GRAMMAR_COMPILE_MS_MAX,
  GRAMMAR_MOVE_MS_MAX,
  GRAMMARS_KEPT_MAX,
  GRAMMARS_WAITING_MAX,
  QUEUE_RETRY_SECONDS,
} from "../../limits.ts";
import { InvalidRequestError, QueueFullError } from "../errors.ts";
import { MatcherThread, type ThreadOptions, ThreadLostError } from "./matcher-thread.ts";
import type { GrammarSource, MoveResult } from "./protocol.ts";

/** An answer that is followed. */
export interface FollowedAnswer {
  /** Its matcher's number. */
  readonly number: number;
  readonly source: GrammarSource;
  /** All ids so far. */
  readonly ids: readonly number[];
}

interface CompileJob {
  source: GrammarSource;
  signal: AbortSignal;
  done: PromiseWithResolvers<void>;
}

interface MoveJob {
  answer: FollowedAnswer;
  hasFailed: boolean;
  done: PromiseWithResolvers<MoveResult>;
}

/** What the thread of this generation has been told of an answer. */
interface Known {
  generation: number;
  idCount: number;
}

export class GrammarHost {
  readonly #thread: MatcherThread;
  /** Numbers of the grammars that the thread of `#generation` has compiled, the one used last at the end. */
  readonly #grammars = new Map<string, number>();
  #generation = 0;
  #grammarCount = 0;
  readonly #answers = new Map<FollowedAnswer, Known>();
  readonly #compiles: CompileJob[] = [];
  readonly #moves: MoveJob[] = [];
  #isWorking = false;
  #isClosed = false;

  constructor(options: ThreadOptions) {
    this.#thread = new MatcherThread(options);
  }

  get losses(): number {
    return this.#thread.losses;
  }

  get grammarCount(): number {
    return this.#grammars.size;
  }

  /** Answers that are followed, and grammars that wait: what a slow grammar would hold up here. */
  get load(): number {
    return this.#answers.size + this.#compiles.length + (this.#isWorking ? 1 : 0);
  }

  has({ text }: GrammarSource): boolean {
    return this.#grammars.has(text);
  }

  /** Throws `InvalidRequestError` for one that cannot be compiled in time, or at all; the signal's reason if it is not wanted any more. */
  compile(source: GrammarSource, signal: AbortSignal): Promise<void> {
    if (this.#compiles.length >= GRAMMARS_WAITING_MAX) {
      const message = `Cannot compile a grammar: expected at most ${GRAMMARS_WAITING_MAX} to wait, got as many`;
      throw new QueueFullError(message, QUEUE_RETRY_SECONDS);
    }
    const done = Promise.withResolvers<void>();
    this.#compiles.push({ source, signal, done });
    this.#wake();
    return done.promise;
  }

  /** Takes the answer on to the ids that it has now. */
  move(answer: FollowedAnswer): Promise<MoveResult> {
    const done = Promise.withResolvers<MoveResult>();
    if (!this.#answers.has(answer)) this.#answers.set(answer, { generation: 0, idCount: 0 });
    this.#moves.push({ answer, hasFailed: false, done });
    this.#wake();
    return done.promise;
  }

  forget(answer: FollowedAnswer): void {
    if (this.#answers.delete(answer)) this.#thread.tell({ type: "close", matcher: answer.number });
  }

  close(): void {
    this.#isClosed = true;
    this.#thread.close();
  }

  #wake(): void {
    if (this.#isWorking) return;
    this.#isWorking = true;
    void this.#work();
  }

  /** Never rejects: what goes wrong is told to whoever waits for it. */
  async #work(): Promise<void> {
    // What is asked for in the same turn goes together.
    await Promise.resolve();
    for (;;) {
      const compile = this.#moves.length === 0 ? this.#compiles.shift() : undefined;
      if (compile) await this.#runCompile(compile);
      else if (this.#moves.length > 0) await this.#runMoves();
      else break;
    }
    this.#isWorking = false;
  }

  async #runCompile({ source, signal, done }: CompileJob): Promise<void> {
    try {
      signal.throwIfAborted();
      await this.#ensure(source);
      done.resolve();
    } catch (error) {
      done.reject(error);
    }
  }

  async #runMoves(): Promise<void> {
    const jobs = this.#takeMoves().filter(({ answer }) => this.#answers.has(answer));
    try {
      for (const { answer } of jobs) await this.#ensure(answer.source);
      const moves = jobs.map(({ answer }) => this.#moveOf(answer));
      const results = await this.#thread.ask({ type: "move", moves }, GRAMMAR_MOVE_MS_MAX);
      jobs.forEach(({ done }, index) => done.resolve(results[index]));
    } catch (error) {
      this.#retry(jobs, error);
    }
  }

  /** All that wait together; one that was in a batch that failed by itself. */
  #takeMoves(): MoveJob[] {
    const count = this.#moves[0].hasFailed ? 1 : this.#moves.length;
    return this.#moves.splice(0, count);
  }

  /** Which of the moves broke the thread is not known: each is tried once more. */
  #retry(jobs: readonly MoveJob[], error: unknown): void {
    for (const job of jobs) {
      if (job.hasFailed || this.#isClosed) job.done.reject(error);
      else this.#moves.unshift({ ...job, hasFailed: true });
    }
  }

  /** What the thread has yet to be told of an answer; all of it if it is a new thread. */
  #moveOf(answer: FollowedAnswer): { matcher: number; grammar: number; ids: number[] } {
    const { generation } = this.#thread;
    const known = this.#answers.get(answer);
    const told = known?.generation === generation ? known.idCount : 0;
    this.#answers.set(answer, { generation, idCount: answer.ids.length });
    const grammar = this.#grammars.get(answer.source.text);
    if (grammar === undefined) throw new Error("Cannot follow an answer: its grammar is not compiled");
    return { matcher: answer.number, grammar, ids: answer.ids.slice(told) };
  }

  /** Compiles the grammar unless this thread has. */
  async #ensure(source: GrammarSource): Promise<void> {
    try {
      await this.#thread.start();
      if (this.#generation !== this.#thread.generation) this.#grammars.clear();
      this.#generation = this.#thread.generation;
      const known = this.#grammars.get(source.text);
      const grammar = known ?? ++this.#grammarCount;
      if (known === undefined) {
        await this.#thread.ask({ type: "compile", grammar, source }, GRAMMAR_COMPILE_MS_MAX);
      }
      this.#grammars.delete(source.text);
      this.#grammars.set(source.text, grammar);
      this.#evict();
    } catch (error) {
      throw error instanceof ThreadLostError && !this.#isClosed ? refusal(error, source) : error;
    }
  }

  #evict(): void {
    if (this.#grammars.size <= GRAMMARS_KEPT_MAX) return;
    const used = new Set([...this.#answers.keys()].map(({ source }) => source.text));
    const unused = [...this.#grammars].find(([text]) => !used.has(text));
    if (!unused) return;
    this.#grammars.delete(unused[0]);
    this.#thread.tell({ type: "forget", grammar: unused[1] });
  }
}

function refusal({ message, said }: ThreadLostError, { param }: GrammarSource): InvalidRequestError {
  const reason = said ?? `expected one that its thread can compile, but ${message}`;
  return new InvalidRequestError(`Cannot compile the grammar: ${reason.slice(0, REASON_CHARS_MAX)}`, param);
}

/** What the library says may repeat the grammar. */
const REASON_CHARS_MAX = 256;
