/** One answer on its way from ids to events: whole characters, nothing that may belong to a stop string. */
import type { AnswerTokens } from "./active-request.ts";
import type { FinishReason, GenerationEvent, GenerationRequest } from "./client.ts";
import type { Detokenizer } from "./text/detokenizer.ts";
import { StopMatcher } from "./text/stop.ts";

export class AnswerText {
  readonly #choice: number;
  readonly #detokenizer: Detokenizer;
  readonly #stops: StopMatcher;
  readonly #promptTokens: number;
  readonly #stopTokenIds: ReadonlySet<number>;
  #completionTokens = 0;
  #lastId: number | undefined;
  isFinished = false;

  constructor(choice: number, detokenizer: Detokenizer, { promptIds, sampling }: GenerationRequest) {
    this.#choice = choice;
    this.#detokenizer = detokenizer;
    this.#stops = new StopMatcher(sampling.stop);
    this.#stopTokenIds = new Set(sampling.stopTokenIds);
    this.#promptTokens = promptIds.length;
  }

  /** Events of further ids; the last is a `finish` if a stop string is complete. */
  *tokens({ ids, logprobs }: AnswerTokens): Generator<GenerationEvent> {
    const { text, stop } = this.#stops.push(ids.map((id) => this.#detokenizer.push(id)).join(""));
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
    const text = rest.stop === null ? rest.text + this.#stops.flush() : rest.text;
    if (text !== "") yield { type: "text", choice: this.#choice, text, tokenIds: [] };
    if (rest.stop === null) yield this.#finish(reason, reason === "stop" ? this.#stopTokenId() : null);
    else yield this.#finish("stop", rest.stop);
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
      ...(stop === null ? {} : { stop }),
    };
  }
}
