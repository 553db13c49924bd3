/**
 * The items that a request may send. Those of an answer are among them: what a response gave can be sent again, or be
 * put before the next input from memory, as it is.
 */
import { z } from "zod";
import { CONTENT_PARTS_MAX, NAME_CHARS_MAX, MESSAGES_MAX } from "../../limits.ts";
import { toolName } from "../conversation/tools.ts";
import { array, object, stringUpTo, variant } from "../validation.ts";

const text = z.string({ error: "a string" });
const id = stringUpTo(NAME_CHARS_MAX);

/** What an answer says of its items; accepted and of no effect when they come back. */
const ofAnswers = { id: id.optional(), status: z.unknown().optional() };

const inputText = object({ type: z.literal("input_text"), text });
const outputText = object({
  type: z.literal("output_text"),
  text,
  annotations: z.unknown().optional(),
  logprobs: z.unknown().optional(),
}).transform(({ type, text }) => ({ type, text }));

/** A string is one part. */
function content<Part extends z.ZodType>(part: Part) {
  return z.preprocess(
    (value) => (typeof value === "string" ? [{ type: "input_text", text: value }] : value),
    array(part, CONTENT_PARTS_MAX, "a string or an array of content parts"),
  );
}

const message = object({
  ...ofAnswers,
  type: z.literal("message"),
  role: z.enum(["system", "developer", "user", "assistant"], {
    error: '"system", "developer", "user" or "assistant"',
  }),
  content: content(
    variant(
      { input_text: inputText, output_text: outputText },
      '"input_text" or "output_text", as nothing but text is read',
    ),
  ),
  phase: z.unknown().optional(),
}).transform(({ id, type, role, content }) => {
  // A string from an assistant was an answer once, and is listed as one.
  const said = content.map(({ text }) => ({ type: "output_text" as const, text }));
  return { id, type, role, content: role === "assistant" ? said : content };
});

const functionCall = object({
  ...ofAnswers,
  type: z.literal("function_call"),
  call_id: id,
  name: toolName,
  arguments: text,
}).transform(({ status: _, ...item }) => item);

const functionCallOutput = object({
  ...ofAnswers,
  type: z.literal("function_call_output"),
  call_id: id,
  output: content(variant({ input_text: inputText }, '"input_text", as nothing but text is read')),
}).transform(({ status: _, ...item }) => item);

const summaryPart = object({ type: z.literal("summary_text", { error: '"summary_text"' }), text });
const reasoningPart = object({ type: z.literal("reasoning_text", { error: '"reasoning_text"' }), text });

const reasoning = object({
  ...ofAnswers,
  type: z.literal("reasoning"),
  summary: array(summaryPart, CONTENT_PARTS_MAX, "an array of summary parts").default([]),
  content: array(reasoningPart, CONTENT_PARTS_MAX, "an array of reasoning parts").default([]),
}).transform(({ status: _, ...item }) => item);

const itemReference = object({ type: z.literal("item_reference"), id });

const item = variant(
  {
    message,
    function_call: functionCall,
    function_call_output: functionCallOutput,
    reasoning,
    item_reference: itemReference,
  },
  '"message", "function_call", "function_call_output", "reasoning" or "item_reference"',
);

/** A string is a user's message; an item without a type is a message, or a reference if it has no role. */
export const input = z.preprocess(
  (value) => (typeof value === "string" ? [{ role: "user", content: value }] : value),
  array(z.preprocess(withType, item), MESSAGES_MAX, "a string or an array of items"),
);

function withType(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const { type } = value as { type?: unknown };
  if (type !== undefined && type !== null) return value;
  return { ...value, type: "role" in value || !("id" in value) ? "message" : "item_reference" };
}

export type SentItem = z.output<typeof item>;
export type ItemReference = Extract<SentItem, { type: "item_reference" }>;
/** An item whose content is known. */
export type Item = Exclude<SentItem, ItemReference>;
