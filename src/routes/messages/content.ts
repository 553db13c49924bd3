/** The messages of Anthropic's API: rows of content blocks. */
import { z } from "zod";
import { CONTENT_PARTS_MAX, MESSAGES_MAX, NAME_CHARS_MAX } from "../../limits.ts";
import { toolName } from "../conversation/tools.ts";
import { array, boolean, object, stringUpTo, variant } from "../validation.ts";

const string = z.string({ error: "a string" });
const id = stringUpTo(NAME_CHARS_MAX);

/** Where a client wants a cached prefix to end: of no effect, as prefixes are cached wherever they can be. */
export const cacheControl = z.unknown().optional();

const text = object({ type: z.literal("text"), text: string, cache_control: cacheControl });

/** A string is one text block. */
function blocks<Block extends z.ZodType>(block: Block) {
  return z.preprocess(
    (value) => (typeof value === "string" ? [{ type: "text", text: value }] : value),
    array(block, CONTENT_PARTS_MAX, "a string or an array of content blocks"),
  );
}

export const textBlocks = blocks(variant({ text }, '"text", as nothing but text is read'));

const toolResult = object({
  type: z.literal("tool_result"),
  tool_use_id: id,
  content: textBlocks.default([]),
  is_error: boolean.optional(),
  cache_control: cacheControl,
});

const thinking = object({ type: z.literal("thinking"), thinking: string, signature: z.unknown().optional() });

const toolUse = object({
  type: z.literal("tool_use"),
  id,
  name: toolName,
  input: z.record(z.string(), z.unknown(), { error: "an object" }),
  caller: z.unknown().optional(),
  cache_control: cacheControl,
});

const userBlock = variant(
  { text, tool_result: toolResult },
  '"text" or "tool_result", as nothing but text is read',
);
const assistantBlock = variant(
  { text, thinking, tool_use: toolUse },
  '"text", "thinking" or "tool_use" in an assistant\'s message',
);

const message = variant(
  {
    user: object({ role: z.literal("user"), content: blocks(userBlock) }),
    assistant: object({ role: z.literal("assistant"), content: blocks(assistantBlock) }),
    system: object({ role: z.literal("system"), content: textBlocks }),
  },
  '"user", "assistant" or "system"',
  "role",
);

export const messages = array(message, MESSAGES_MAX, "an array of messages").refine(
  (list) => list.length > 0,
  { error: "at least one message" },
);

export type Message = z.output<typeof message>;
export type UserBlock = z.output<typeof userBlock>;
export type AssistantBlock = z.output<typeof assistantBlock>;
export type TextBlocks = z.output<typeof textBlocks>;
