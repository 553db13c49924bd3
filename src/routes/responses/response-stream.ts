/** A response as it comes into being: its events in order, and the response as far as it has come. */
import type { BlockEvent } from "../conversation/blocks.ts";
import { toErrorAnswer } from "../errors.ts";
import { idPrefixes, itemEvents, type OutputItem, toItem } from "./output-items.ts";
import {
  begun,
  ended,
  failed,
  type ResponseHead,
  type ResponseObject,
  type ResponseState,
} from "./response-object.ts";

interface ResponseStreamOptions {
  head: ResponseHead;
  newId: () => string;
  /** Seconds since the epoch. */
  now: () => number;
  /** Called with the response at its end, before the last event, unless it fails. */
  onEnd: (response: ResponseObject) => void;
}

export class ResponseStream {
  readonly #options: ResponseStreamOptions;
  readonly #output: OutputItem[] = [];
  #state: ResponseState = begun;
  #eventCount = 0;

  constructor(options: ResponseStreamOptions) {
    this.#options = options;
  }

  get response(): ResponseObject {
    return { ...this.#options.head, ...this.#state };
  }

  /** Throws what the blocks throw; `fail` has the events of that. */
  async *events(blocks: AsyncIterable<BlockEvent>): AsyncGenerator<object, void, undefined> {
    yield this.#lifeEvent("created");
    yield this.#lifeEvent("in_progress");
    let id = "";
    for await (const event of blocks) {
      if (event.type === "finish") {
        this.#state = ended(this.#output, event, this.#options.now());
        this.#options.onEnd(this.response);
        yield this.#lifeEvent(this.#state.status);
        return;
      }
      if (event.type === "begin") id = idPrefixes[event.block.type] + this.#options.newId();
      if (event.type === "end")
        this.#output.push(toItem(event.block, id, event.isCut ? "incomplete" : "completed"));
      for (const itemEvent of itemEvents(event, id)) yield this.#number(itemEvent);
    }
  }

  /** The response at its end, without a word before. */
  async whole(blocks: AsyncIterable<BlockEvent>): Promise<ResponseObject> {
    const events = this.events(blocks);
    while (!(await events.next()).done);
    return this.response;
  }

  /** What is told when the answer ends in `error`: clients look for the one or the other event. */
  fail(error: unknown): object[] {
    const { error: body } = toErrorAnswer(error).body;
    const { message, param, code } = body;
    this.#state = failed(this.#output, body);
    // The error once flat, as it is documented, and once nested, as OpenAI sends it.
    return [this.#number({ type: "error", message, param, code, error: body }), this.#lifeEvent("failed")];
  }

  #lifeEvent(status: ResponseState["status"] | "created"): object {
    return this.#number({ type: `response.${status}`, response: this.response });
  }

  #number(event: object): object {
    return { ...event, sequence_number: this.#eventCount++ };
  }
}
