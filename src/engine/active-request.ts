/** A request in the engine: what of it the scheduler is told, and what its rows of logits need before and after sampling. */
import type { GenerationRequest, PromptResult, TokenLogprobs } from "./client.ts";
import { DeadlineError } from "./errors.ts";
import type { Guide } from "./grammar/grammar-pool.ts";
import type { RowEdits } from "./row-edits.ts";
import { logprobsOf } from "./sampling/logprobs.ts";
import { allowedMask, noPenalties, Penalties } from "./sampling/penalties.ts";
import type { SchedulerRequest } from "./scheduler/request.ts";
import type { Observation, PromptOutput } from "./step-plan.ts";

export interface AnswerTokens {
  ids: number[];
  /** Of each id, if the request asked for them. */
  logprobs?: TokenLogprobs[];
}

interface Answer {
  penalties: Penalties;
  /** Of the grammar that it follows, if any. */
  guide: Guide | null;
  outputIds: number[];
  logprobs: TokenLogprobs[];
  isFinished: boolean;
}

export interface ModelFacts {
  eosTokenIds: readonly number[];
  vocabSize: number;
}

export class ActiveRequest {
  readonly #request: GenerationRequest;
  readonly #model: ModelFacts;
  readonly #answers: Answer[];
  readonly #mask: Uint32Array | null;
  readonly #promptLogprobs: TokenLogprobs[] = [];
  /** Of the final states of the prompt's tokens so far, in float64: a long prompt comes in many parts. */
  #stateSum: Float64Array | null = null;
  #observedTokens = 0;
  #cachedTokens: number | null = null;
  #isPromptTold = false;

  /** `guides` are those of a request with a grammar, one an answer. */
  constructor(request: GenerationRequest, model: ModelFacts, guides: readonly Guide[] = []) {
    const { promptIds, sampling } = request;
    const { penalties = {}, allowedTokenIds } = sampling;
    const params = {
      ...noPenalties,
      ...penalties,
      minTokens: sampling.minTokens ?? 0,
      stopIds: [...model.eosTokenIds, ...(sampling.stopTokenIds ?? [])],
    };
    this.#request = request;
    this.#model = model;
    this.#mask = allowedTokenIds ? allowedMask(allowedTokenIds, model.vocabSize) : null;
    this.#answers = Array.from({ length: request.sampling.n ?? 1 }, (_, choice) => ({
      penalties: new Penalties(params, promptIds),
      guide: guides.at(choice) ?? null,
      outputIds: [],
      logprobs: [],
      isFinished: false,
    }));
  }

  get wantsLogprobs(): boolean {
    return this.#request.sampling.logprobs !== undefined;
  }

  forScheduler(): SchedulerRequest {
    const { id, promptIds, prefixLength, sampling, cacheSalt, priority, deadlineMs } = this.#request;
    const { temperature, topK, topP, minP, seed, maxTokens, minTokens, stopTokenIds, ignoreEos } = sampling;
    const common = { temperature, topK, topP, minP };
    return {
      id,
      promptIds,
      prefixLength: prefixLength ?? promptIds.length,
      cacheSalt: cacheSalt ?? "",
      priority: priority ?? 0,
      maxTokens,
      minTokens: minTokens ?? 0,
      stopTokenIds: [...(ignoreEos ? [] : this.#model.eosTokenIds), ...(stopTokenIds ?? [])],
      // Each answer draws from a stream of its own; the first from that of a request with one answer.
      answers: this.#answers.map((_, choice) => ({
        ...common,
        seed: BigInt.asUintN(64, seed + BigInt(choice)),
      })),
      promptOutput: this.#promptOutput,
      needsKnownIds: this.isGuided || this.#answers[0].penalties.needsKnownIds,
      isGuided: this.isGuided,
      deadlineMs: deadlineMs ?? null,
    };
  }

  /** What to change about the logits from which id `step` of an answer is chosen. */
  edits(choice: number, step: number): RowEdits {
    const { penalties, outputIds, guide } = this.#answers[choice];
    if (guide && guide.ids.length !== step)
      throw new Error(`Cannot mask id ${step}: the grammar has followed ${guide.ids.length}`);
    return { entries: penalties.entries(outputIds, step), mask: both(this.#mask, guide?.mask ?? null) };
  }

  get isGuided(): boolean {
    return this.#answers[0].guide !== null;
  }

  /** Lets the answer's grammar follow it by these ids; true when it has come to its end. Throws when it cannot go on. */
  async follow(choice: number, ids: readonly number[]): Promise<boolean> {
    const { guide } = this.#answers[choice];
    await guide?.follow(ids);
    return guide?.hasEnded ?? false;
  }

  keepLogprobs(
    choice: number,
    { ids, logits, row }: { ids: Uint32Array; logits: Float32Array; row: number },
  ): void {
    const { logprobs: count } = this.#request.sampling;
    if (count === undefined) return;
    const { vocabSize } = this.#model;
    const values = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    this.#answers[choice].logprobs.push(logprobsOf(values, ids[row], count));
  }

  /** Its prompt runs from this position on in some step; the first time, what lies before it was cached. */
  begin(start: number): void {
    this.#cachedTokens ??= start;
  }

  /** Takes rows of logits of the prompt's own tokens, f32 [positions, vocab], in order of positions. */
  keepPromptLogits({ start, end }: Observation, logits: Float32Array): void {
    const { vocabSize } = this.#model;
    const { promptIds, sampling } = this.#request;
    for (let at = start; at < end; at++) {
      const row = logits.subarray((at - start) * vocabSize, (at - start + 1) * vocabSize);
      this.#promptLogprobs.push(logprobsOf(row, promptIds[at + 1], sampling.promptLogprobs ?? 0));
    }
    this.#observedTokens += end - start;
  }

  /** Takes the sum of the final states of some of the prompt's tokens, f32 [hidden]. */
  keepStateSum({ start, end }: Observation, sum: Float32Array): void {
    const total = (this.#stateSum ??= new Float64Array(sum.length));
    sum.forEach((value, channel) => (total[channel] += value));
    this.#observedTokens += end - start;
  }

  /** What is to be told of the prompt: once, when the first id is known. */
  takePrompt(): PromptResult | null {
    if (this.#isPromptTold) return null;
    this.#isPromptTold = true;
    const { id, promptIds } = this.#request;
    const wantedTokens = { none: 0, logits: promptIds.length - 1, states: promptIds.length };
    const wanted = wantedTokens[this.#promptOutput ?? "none"];
    if (this.#observedTokens !== wanted)
      throw new Error(
        `Cannot tell of request ${id}: expected ${wanted} observed tokens, got ${this.#observedTokens}`,
      );
    return {
      cachedTokens: this.#cachedTokens ?? 0,
      ...(this.#promptOutput === "logits" && { logprobs: this.#promptLogprobs }),
      ...(this.#stateSum && {
        meanState: Float32Array.from(this.#stateSum, (sum) => sum / promptIds.length),
      }),
    };
  }

  get #promptOutput(): PromptOutput | undefined {
    const { wantsMeanState = false, sampling } = this.#request;
    if (wantsMeanState) return "states";
    return sampling.promptLogprobs === undefined ? undefined : "logits";
  }

  /** Ids that have become known. */
  accept(choice: number, ids: number[]): AnswerTokens {
    const answer = this.#answers[choice];
    answer.outputIds.push(...ids);
    if (!this.wantsLogprobs) return { ids };
    return { ids, logprobs: answer.logprobs.splice(0, ids.length) };
  }

  isFinished(choice: number): boolean {
    return this.#answers.at(choice)?.isFinished ?? true;
  }

  /** An answer has ended; true if that was the last. */
  finish(choice: number): boolean {
    const answer = this.#answers.at(choice);
    if (answer) answer.isFinished = true;
    answer?.guide?.close();
    return this.#answers.every(({ isFinished }) => isFinished);
  }

  /** Gives up what is held elsewhere for the answers that have not finished. */
  close(): void {
    for (const { guide } of this.#answers) guide?.close();
  }

  deadlineError(): DeadlineError {
    const { id } = this.#request;
    return new DeadlineError(
      `Cannot finish request ${id}: expected an answer before its deadline, which has passed`,
    );
  }
}

/** What both masks allow; null allows all. */
function both(a: Uint32Array | null, b: Uint32Array | null): Uint32Array | null {
  return a && b ? a.map((word, index) => word & b[index]) : (a ?? b);
}
