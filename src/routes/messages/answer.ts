/** The answer of `/v1/messages`: the message whole, and the events of its stream. */
import { type Block, type BlockEvent, collectBlocks } from "../conversation/blocks.ts";
import type { AssistantFinish } from "../conversation/conversation.ts";

export interface MessageHead {
  id: string;
  model: string;
  promptTokens: number;
  /** Most tokens of the answer, as the request has it. */
  maxTokens: number;
}

export async function wholeMessage(head: MessageHead, events: AsyncIterable<BlockEvent>): Promise<object> {
  const { blocks, finish } = await collectBlocks(events);
  const content = blocks.map(toContent);
  return {
    ...emptyMessage(head),
    content,
    ...toStop(finish, head),
    usage: toUsage(finish),
  };
}

export async function* messageEvents(
  head: MessageHead,
  events: AsyncIterable<BlockEvent>,
): AsyncGenerator<object> {
  yield { type: "message_start", message: emptyMessage(head) };
  for await (const event of events) {
    if (event.type === "finish") {
      yield { type: "message_delta", delta: toStop(event, head), usage: toUsage(event) };
      yield { type: "message_stop" };
    } else {
      yield toBlockEvent(event);
    }
  }
}

function emptyMessage(head: MessageHead): object {
  const { id, model, promptTokens } = head;
  const stop = { stop_reason: null, stop_sequence: null };
  const usage = toUsage({ promptTokens, completionTokens: 0 });
  return { id, type: "message", role: "assistant", model, content: [], ...stop, usage };
}

/** Anthropic counts what came from a cache apart; that is not known before the end, and what went into one not at all. */
function toUsage(
  counts: Pick<AssistantFinish, "promptTokens" | "completionTokens" | "cachedTokens">,
): object {
  const { promptTokens, completionTokens, cachedTokens } = counts;
  return {
    input_tokens: promptTokens - (cachedTokens ?? 0),
    cache_creation_input_tokens: null,
    cache_read_input_tokens: cachedTokens ?? null,
    output_tokens: completionTokens,
  };
}

function toStop({ reason, stop, completionTokens }: AssistantFinish, { maxTokens }: MessageHead): object {
  if (reason === "tool_calls") return { stop_reason: "tool_use", stop_sequence: null };
  if (reason === "length") {
    const stop_reason = completionTokens < maxTokens ? "model_context_window_exceeded" : "max_tokens";
    return { stop_reason, stop_sequence: null };
  }
  if (typeof stop === "string") return { stop_reason: "stop_sequence", stop_sequence: stop };
  return { stop_reason: "end_turn", stop_sequence: null };
}

function toBlockEvent(event: Exclude<BlockEvent, AssistantFinish>): object {
  const { index, block } = event;
  switch (event.type) {
    case "begin":
      return { type: "content_block_start", index, content_block: toContent(block) };
    case "text":
      return { type: "content_block_delta", index, delta: toDelta(block, event.text) };
    case "end":
      return { type: "content_block_stop", index };
  }
}

function toDelta({ type }: Block, text: string): object {
  switch (type) {
    case "text":
      return { type: "text_delta", text };
    case "reasoning":
      return { type: "thinking_delta", thinking: text };
    case "call":
      return { type: "input_json_delta", partial_json: text };
  }
}

/** The block as far as it has come. Thoughts need no signature to be sent back. */
function toContent(block: Block): object {
  switch (block.type) {
    case "text":
      return { type: "text", text: block.text, citations: null };
    case "reasoning":
      return { type: "thinking", thinking: block.text, signature: "" };
    case "call": {
      const { id, name } = block;
      return { type: "tool_use", id, name, input: parseInput(block.arguments), caller: { type: "direct" } };
    }
  }
}

/** Arguments that were cut are no JSON; `stop_reason` says that they are not to be used. */
function parseInput(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
