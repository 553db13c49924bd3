/** Tokens of a generation as it goes on. */
import type { StartedPrompt } from "./generation.ts";
import type { NamedEvent } from "./token-names.ts";

export class TokenTally {
  /** Of all prompts. */
  readonly promptTokens: number;
  #completionTokens = 0;
  /** By answer: ids that nobody has taken yet. */
  readonly #ids = new Map<number, number[]>();

  constructor(prompts: readonly StartedPrompt[]) {
    this.promptTokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  }

  /** Of all answers so far. */
  get completionTokens(): number {
    return this.#completionTokens;
  }

  /** Ids of an answer since the last call. */
  takeIds(choice: number): number[] {
    const ids = this.#ids.get(choice) ?? [];
    this.#ids.delete(choice);
    return ids;
  }

  /** The same events, counted when they are taken. */
  async *counting(events: AsyncIterable<NamedEvent>): AsyncGenerator<NamedEvent, void, void> {
    for await (const event of events) {
      if (event.type === "text") this.#count(event.choice, event.tokenIds);
      yield event;
    }
  }

  #count(choice: number, ids: readonly number[]): void {
    this.#completionTokens += ids.length;
    const known = this.#ids.get(choice);
    if (known) known.push(...ids);
    else this.#ids.set(choice, [...ids]);
  }
}
