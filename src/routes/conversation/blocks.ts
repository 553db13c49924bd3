/**
 * An answer as a row of blocks, each begun, filled and ended before the next: what Responses calls output items and
 * Messages calls content blocks.
 */
import type { NamedLogprobs } from "../token-names.ts";
import type { AssistantAnswers, AssistantEvent, AssistantFinish, AssistantText } from "./conversation.ts";

/** Grows until its end. */
export type Block = TextBlock | CallBlock;

/** The answer's text, or the thoughts before it. */
export interface TextBlock {
  type: "text" | "reasoning";
  text: string;
  /** Empty unless the request asked for log-probabilities. */
  tokens: NamedLogprobs[];
}

/** The call of a tool. */
export interface CallBlock {
  type: "call";
  id: string;
  name: string;
  /** JSON text. */
  arguments: string;
}

/** Of each block, numbered from 0, one `begin`, any number of `text`, one `end`; after the last block, one `finish`. */
export type BlockEvent =
  | { type: "begin"; index: number; block: Block }
  /** `text` and `tokens` are part of the block already. */
  | { type: "text"; index: number; block: Block; text: string; tokens: readonly NamedLogprobs[] }
  | { type: "end"; index: number; block: Block; isCut: boolean }
  | AssistantFinish;

/** The blocks of the only answer. Throws what the events throw. */
export async function* toBlocks({
  events,
}: Pick<AssistantAnswers, "events">): AsyncGenerator<BlockEvent, void, undefined> {
  let index = -1;
  let open: Block | null = null;
  // Of text that is still held back, since it may turn out to be a call.
  let early: readonly NamedLogprobs[] = [];
  for await (const event of events) {
    if (event.type === "finish") {
      // Only what was being written when the tokens ran out is not whole.
      if (open) yield { type: "end", index, block: open, isCut: event.reason === "length" };
      yield event;
      return;
    }
    let tokens = "tokens" in event ? event.tokens : [];
    if (open === null || !belongs(event, open)) {
      if ("text" in event && event.text === "") {
        early = open?.type === "call" ? [] : [...early, ...tokens];
        continue;
      }
      if (open) yield { type: "end", index, block: open, isCut: false };
      open = newBlock(event);
      yield { type: "begin", index: ++index, block: open };
      if (open.type !== "call") tokens = [...early, ...tokens];
      early = [];
    }
    if (event.type === "tool-call") continue;
    append(open, event.text, tokens);
    yield { type: "text", index, block: open, text: event.text, tokens };
  }
}

type PartEvent = Exclude<AssistantEvent, AssistantFinish>;

function belongs(event: PartEvent, open: Block): boolean {
  if (event.type === "tool-call") return false;
  return event.type === (open.type === "call" ? "tool-arguments" : open.type);
}

function newBlock(event: PartEvent): Block {
  if (event.type === "tool-call") return { type: "call", id: event.id, name: event.name, arguments: "" };
  if (event.type === "tool-arguments") {
    throw new Error(`Cannot tell call ${event.index}: expected its beginning before its arguments`);
  }
  return newTextBlock(event);
}

function newTextBlock({ type }: AssistantText): TextBlock {
  return { type, text: "", tokens: [] };
}

function append(block: Block, text: string, tokens: readonly NamedLogprobs[]): void {
  if (block.type === "call") {
    block.arguments += text;
  } else {
    block.text += text;
    block.tokens.push(...tokens);
  }
}

/** All blocks and the end of an answer at once. */
export async function collectBlocks(
  events: AsyncIterable<BlockEvent>,
): Promise<{ blocks: Block[]; finish: AssistantFinish }> {
  const blocks: Block[] = [];
  for await (const event of events) {
    if (event.type === "finish") return { blocks, finish: event };
    if (event.type === "end") blocks.push(event.block);
  }
  throw new Error("Cannot collect an answer: expected a finish, got the end of the events");
}
