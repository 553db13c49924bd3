/** From the blocks of an answer to output items, and to the events that tell how they grow. */
import type { Block, BlockEvent, CallBlock, TextBlock } from "../conversation/blocks.ts";
import { chatTokens } from "../logprobs.ts";

type ItemStatus = "in_progress" | "completed" | "incomplete";

export type OutputItem = MessageItem | ReasoningItem | CallItem;

interface MessageItem {
  id: string;
  type: "message";
  status: ItemStatus;
  role: "assistant";
  content: { type: "output_text"; text: string; annotations: never[]; logprobs: object[] }[];
}

interface ReasoningItem {
  id: string;
  type: "reasoning";
  status: ItemStatus;
  summary: never[];
  content: { type: "reasoning_text"; text: string }[];
}

interface CallItem {
  id: string;
  type: "function_call";
  status: ItemStatus;
  call_id: string;
  name: string;
  arguments: string;
}

/** What an item's id begins with. */
export const idPrefixes = { text: "msg_", reasoning: "rs_", call: "fc_" };

/** The item as far as the block has come; its content has no part before it is complete or cut. */
export function toItem(block: Block, id: string, status: ItemStatus): OutputItem {
  if (block.type === "call") {
    return {
      id,
      type: "function_call",
      status,
      call_id: block.id,
      name: block.name,
      arguments: block.arguments,
    };
  }
  const hasPart = status !== "in_progress";
  if (block.type === "text") {
    return { id, type: "message", status, role: "assistant", content: hasPart ? [toOutputText(block)] : [] };
  }
  return { id, type: "reasoning", status, summary: [], content: hasPart ? [toReasoningText(block)] : [] };
}

function toOutputText({ text, tokens }: TextBlock): MessageItem["content"][number] {
  return { type: "output_text", text, annotations: [], logprobs: chatTokens(tokens) };
}

function toReasoningText({ text }: TextBlock): ReasoningItem["content"][number] {
  return { type: "reasoning_text", text };
}

export type ItemProgress = Exclude<BlockEvent, { type: "finish" }>;

/** The events of the item `id` that follow from what its block did; they lack their numbers. */
export function itemEvents(event: ItemProgress, id: string): object[] {
  const { index: output_index, block } = event;
  const at = { item_id: id, output_index };
  switch (event.type) {
    case "begin": {
      const added = {
        type: "response.output_item.added",
        output_index,
        item: toItem(block, id, "in_progress"),
      };
      return block.type === "call" ? [added] : [added, partEvent("added", block, at)];
    }
    case "text":
      return [deltaEvent(event, at)];
    case "end": {
      const item = toItem(block, id, event.isCut ? "incomplete" : "completed");
      const done = { type: "response.output_item.done", output_index, item };
      return block.type === "call" ? [callDone(block, at), done] : [...textDone(block, at), done];
    }
  }
}

interface ItemPlace {
  item_id: string;
  output_index: number;
}

/** An item's text is its only part. */
const content_index = 0;
const textEvents = { text: "response.output_text", reasoning: "response.reasoning_text" };

function partEvent(what: "added" | "done", block: TextBlock, at: ItemPlace): object {
  const part = block.type === "text" ? toOutputText(block) : toReasoningText(block);
  return { type: `response.content_part.${what}`, ...at, content_index, part };
}

function deltaEvent({ block, text, tokens }: Extract<ItemProgress, { type: "text" }>, at: ItemPlace): object {
  if (block.type === "call") return { type: "response.function_call_arguments.delta", ...at, delta: text };
  const logprobs = block.type === "text" ? { logprobs: chatTokens(tokens) } : {};
  return { type: `${textEvents[block.type]}.delta`, ...at, content_index, delta: text, ...logprobs };
}

function textDone(block: TextBlock, at: ItemPlace): object[] {
  const { type, text, tokens } = block;
  const logprobs = type === "text" ? { logprobs: chatTokens(tokens) } : {};
  const done = { type: `${textEvents[type]}.done`, ...at, content_index, text, ...logprobs };
  return [done, partEvent("done", block, at)];
}

function callDone({ name, arguments: text }: CallBlock, at: ItemPlace): object {
  return { type: "response.function_call_arguments.done", ...at, name, arguments: text };
}
