/** One answer of the model's, from its text to what the assistant does: thinks, says, calls. */
import type { NamedEvent, NamedLogprobs } from "../token-names.ts";
import type { AnswerFormat } from "./answer-format.ts";
import type { AssistantEvent } from "./conversation.ts";
import { ReasoningSplitter, type SplitPart } from "./reasoning-splitter.ts";
import type { CallPart, ToolCallParser } from "./tool-calls/format.ts";

type Finish = Extract<NamedEvent, { type: "finish" }>;
type Text = Extract<NamedEvent, { type: "text" }>;

export class AnswerReader {
  readonly #choice: number;
  readonly #format: AnswerFormat;
  readonly #splitter: ReasoningSplitter | undefined;
  readonly #parser: ToolCallParser | undefined;
  #callCount = 0;
  #reasoningTokens = 0;
  /** Tokens of which it is not known yet whether they begin thoughts. */
  #undecidedTokens = 0;

  constructor(choice: number, format: AnswerFormat) {
    this.#choice = choice;
    this.#format = format;
    this.#splitter = format.reasoning && new ReasoningSplitter(format.reasoning);
    this.#parser = format.newParser?.();
  }

  *read(event: NamedEvent): Generator<AssistantEvent> {
    if (event.type === "text") yield* this.#readText(event);
    else yield* this.#end(event);
  }

  *#readText({ text, tokenIds, tokens }: Text): Generator<AssistantEvent> {
    const wasThinking = this.#splitter?.isThinking ?? false;
    const parts: SplitPart[] = this.#splitter?.push(text) ?? [{ type: "text", text }];
    const isThinking = this.#splitter?.isThinking ?? false;
    const hasThought = wasThinking || isThinking || parts.some(({ type }) => type === "reasoning");
    this.#undecidedTokens += tokenIds.length;
    if (hasThought) this.#reasoningTokens += this.#undecidedTokens;
    if (!this.#splitter?.isUndecided) this.#undecidedTokens = 0;
    const isHidden = hasThought && !this.#isReasoningIncluded;
    yield* withTokens(this.#events(parts), {
      tokens: isHidden ? [] : tokens,
      type: hasThought ? "reasoning" : "text",
      choice: this.#choice,
    });
  }

  *#end(finish: Finish): Generator<AssistantEvent> {
    yield* this.#events(this.#splitter?.end() ?? []);
    yield* this.#callEvents(this.#parser?.end() ?? []);
    const { choice, stop, promptTokens, completionTokens, cachedTokens } = finish;
    const reason = this.#callCount > 0 && finish.reason === "stop" ? "tool_calls" : finish.reason;
    const reasoningTokens = this.#reasoningTokens;
    const counts = { promptTokens, completionTokens, reasoningTokens, cachedTokens };
    yield { type: "finish", choice, reason, stop, ...counts };
  }

  get #isReasoningIncluded(): boolean {
    return this.#format.reasoning?.isIncluded ?? true;
  }

  *#events(parts: readonly SplitPart[]): Generator<AssistantEvent> {
    const [choice, parser] = [this.#choice, this.#parser];
    for (const { type, text } of parts) {
      if (type === "reasoning") {
        if (this.#isReasoningIncluded) yield { type, choice, text, tokens: [] };
      } else if (parser) yield* this.#callEvents(parser.push(text));
      else if (text !== "") yield { type, choice, text, tokens: [] };
    }
  }

  *#callEvents(parts: readonly CallPart[]): Generator<AssistantEvent> {
    const choice = this.#choice;
    const { newId, callsMax } = this.#format;
    for (const part of parts) {
      if (part.type === "call") this.#callCount++;
      const index = this.#callCount - 1;
      if (part.type === "text") yield { ...part, choice, tokens: [] };
      else if (index >= callsMax) continue;
      else if (part.type === "call")
        yield { type: "tool-call", choice, index, id: `call_${newId()}`, name: part.name };
      else yield { type: "tool-arguments", choice, index, text: part.text };
    }
  }
}

interface TokenOptions {
  tokens: readonly NamedLogprobs[];
  type: "text" | "reasoning";
  choice: number;
}

/** Lists the tokens with the first text, or by themselves if there is none: every token is listed, and once. */
function* withTokens(
  events: Iterable<AssistantEvent>,
  { tokens, type, choice }: TokenOptions,
): Generator<AssistantEvent> {
  let rest = tokens;
  for (const event of events) {
    const isText = event.type === "text" || event.type === "reasoning";
    yield isText ? { ...event, tokens: rest } : event;
    if (isText) rest = [];
  }
  if (rest.length > 0) yield { type, choice, text: "", tokens: rest };
}
