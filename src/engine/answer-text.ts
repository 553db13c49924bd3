/** One answer on its way from ids to events: whole characters, nothing that may belong to a stop string. */
import type { AnswerTokens } from "./active-request.ts";
import type { FinishReason, GenerationEvent, GenerationRequest } from "./client.ts";
import type { Detokenizer } from "./text/detokenizer.ts";
import { StopMatcher } from "./text/stop.ts";

export interface AnswerOptions {
  request: GenerationRequest;
  /** The model's own ends. */
  eosTokenIds: readonly number[];
}

export class AnswerText {
  readonly #choice: number;
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopMatcher;
  readonly #promptTokens: number;
  readonly #stopTokenIds: ReadonlySet<number>;
  readonly #endIds: ReadonlySet<number>;
  readonly #includeStop: boolean;
  #completionTokens = 0;
  #lastId: number | undefined;
  isFinished = false;
  /** Of the prompt's, once it is known. */
  cachedTokens: number | undefined;

  constructor(choice: number, detokenizer: Detokenizer, { request, eosTokenIds }: AnswerOptions) {
    const { promptIds, sampling } = request;
    this.#choice = choice;
    this.#detokenizer = detokenizer;
    this.#stops = new StopMatcher(sampling.stop);
    this.#stopTokenIds = new Set(sampling.stopTokenIds);
    this.#endIds = new Set([...(sampling.ignoreEos ? [] : eosTokenIds), ...(sampling.stopTokenIds ?? [])]);
    this.#includeStop = sampling.includeStop ?? false;
    this.#promptTokens = promptIds.length;
  }

  /** Events of further ids; the last is a `finish` if a stop string is complete. */
  *tokens({ ids, logprobs }: AnswerTokens): Generator<GenerationEvent> {
    const { text: before, stop } = this.#stops.push(this.#textOf(ids));
    const text = stop !== null && this.#includeStop ? before + stop : before;
    this.#completionTokens += ids.length;
    this.#lastId = ids.at(-1);
    if (text !== "" || stop === null) {
      yield { type: "text", choice: this.#choice, text, tokenIds: ids, ...(logprobs ? { logprobs } : {}) };
    }
    if (stop !== null) yield this.#finish("stop", stop);
  }

  /** Events of the end, which gives out what was held back. */
  *end(reason: FinishReason): Generator<GenerationEvent> {
    const rest = this.#stops.push(this.#detokenizer.flush());
    const text = rest.text + (rest.stop === null ? this.#stops.flush() : this.#includeStop ? rest.stop : "");
    if (text !== "") yield { type: "text", choice: this.#choice, text, tokenIds: [] };
    if (rest.stop === null) yield this.#finish(reason, reason === "stop" ? this.#stopTokenId() : null);
    else yield this.#finish("stop", rest.stop);
  }

  #textOf(ids: readonly number[]): string {
    const shown = this.#includeStop ? ids : ids.filter((id) => !this.#endIds.has(id));
    return shown.map((id) => this.#detokenizer.push(id)).join("");
  }

  /** The last id if the request itself named it as an end. */
  #stopTokenId(): number | null {
    return this.#lastId !== undefined && this.#stopTokenIds.has(this.#lastId) ? this.#lastId : null;
  }

  #finish(reason: FinishReason, stop: string | number | null): GenerationEvent {
    this.isFinished = true;
    const [promptTokens, completionTokens] = [this.#promptTokens, this.#completionTokens];
    const choice = this.#choice;
    return {
      type: "finish",
      choice,
      reason,
      promptTokens,
      completionTokens,
      ...(this.cachedTokens === undefined ? {} : { cachedTokens: this.cachedTokens }),
      ...(stop === null ? {} : { stop }),
    };
  }
}
