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
  #completionTokens = 0;
  isFinished = false;

  constructor(choice: number, detokenizer: Detokenizer, { promptIds, sampling }: GenerationRequest) {
    this.#choice = choice;
    this.#detokenizer = detokenizer;
    this.#stops = new StopMatcher(sampling.stop);
    this.#promptTokens = promptIds.length;
  }

  /** Events of further ids; the last is a `finish` if a stop string is complete. */
  *tokens({ ids, logprobs }: AnswerTokens): Generator<GenerationEvent> {
    const { text, stopped } = this.#stops.push(ids.map((id) => this.#detokenizer.push(id)).join(""));
    this.#completionTokens += ids.length;
    if (text !== "" || !stopped) {
      yield { type: "text", choice: this.#choice, text, tokenIds: ids, ...(logprobs ? { logprobs } : {}) };
    }
    if (stopped) yield this.#finish("stop");
  }

  /** Events of the end, which gives out what was held back. */
  *end(reason: FinishReason): Generator<GenerationEvent> {
    const rest = this.#stops.push(this.#detokenizer.flush());
    const text = rest.stopped ? rest.text : rest.text + this.#stops.flush();
    if (text !== "") yield { type: "text", choice: this.#choice, text, tokenIds: [] };
    yield this.#finish(rest.stopped ? "stop" : reason);
  }

  #finish(reason: FinishReason): GenerationEvent {
    this.isFinished = true;
    const [promptTokens, completionTokens] = [this.#promptTokens, this.#completionTokens];
    return { type: "finish", choice: this.#choice, reason, promptTokens, completionTokens };
  }
}
