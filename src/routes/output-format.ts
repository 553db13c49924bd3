/**
 * What an answer must match: OpenAI's `response_format`, and vLLM's `structured_outputs` for what that cannot say.
 * Whether a schema or a pattern can be enforced is the engine's to judge.
 */
import { z } from "zod";
import type { Grammar, JsonSchema } from "../engine/client.ts";
import { CHOICES_MAX, GRAMMAR_CHARS_MAX, REGEX_CHARS_MAX } from "../limits.ts";
import { describe } from "./errors.ts";
import { parseJson } from "./json.ts";
import { array, boolean, object, refusal, stringUpTo, variant } from "./validation.ts";

const schema = z.custom<JsonSchema>(
  (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  {
    error: "a JSON Schema: an object",
  },
);

const jsonSchema = object({
  name: stringUpTo(64),
  description: z.string({ error: "a string" }).optional(),
  schema,
  /** An answer matches in any case. */
  strict: boolean.optional(),
});

const responseFormat = variant(
  {
    text: object({ type: z.literal("text") }),
    json_object: object({ type: z.literal("json_object") }),
    json_schema: object({ type: z.literal("json_schema"), json_schema: jsonSchema }),
  },
  'a type of "text", "json_object" or "json_schema"',
);

const structuredOutputs = object({
  /** As an object, or as its JSON text. */
  json: z
    .union([schema, stringUpTo(GRAMMAR_CHARS_MAX)], { error: "a JSON Schema: an object, or its text" })
    .optional(),
  regex: stringUpTo(REGEX_CHARS_MAX).optional(),
  choice: array(stringUpTo(REGEX_CHARS_MAX), CHOICES_MAX, "an array of strings")
    .refine((choices) => choices.length > 0, { error: "at least one choice" })
    .optional(),
  grammar: stringUpTo(GRAMMAR_CHARS_MAX).optional(),
});

export const outputParameters = {
  response_format: responseFormat.optional(),
  structured_outputs: structuredOutputs.optional(),
};

export type OutputParameters = z.output<z.ZodObject<typeof outputParameters>>;

/** Undefined where anything goes. Throws `InvalidRequestError` when more than one thing is asked for. */
export function toGrammar({
  response_format: format,
  structured_outputs: outputs,
}: OutputParameters): Grammar | undefined {
  const jsonSchema = format?.type === "json_schema" ? format.json_schema.schema : undefined;
  const ofFormat = format && formatGrammar({ type: format.type, schema: jsonSchema }, "response_format");
  const ofOutputs = outputs && outputsGrammar(outputs);
  if (ofFormat && ofOutputs)
    throw refusal("structured_outputs", "expected it without a response_format, got both");
  return ofFormat ?? ofOutputs;
}

/** Of a format as OpenAI's APIs name them; `param` is where the request has it. */
function formatGrammar(
  { type, schema }: { type: "text" | "json_object" | "json_schema"; schema?: JsonSchema },
  param: string,
): Grammar | undefined {
  if (type === "text") return undefined;
  return schema === undefined ? { type: "json-object", param } : { type: "json-schema", schema, param };
}

function outputsGrammar(outputs: z.output<typeof structuredOutputs>): Grammar {
  const param = "structured_outputs";
  const { json, regex, choice, grammar } = outputs;
  const found: Grammar[] = [];
  if (json !== undefined) found.push({ type: "json-schema", schema: toSchema(json), param });
  if (regex !== undefined) found.push({ type: "regex", pattern: regex, param });
  if (choice !== undefined) found.push({ type: "choice", choices: choice, param });
  if (grammar !== undefined) found.push({ type: "ebnf", grammar, param });
  if (found.length !== 1)
    throw refusal(param, `expected exactly one of json, regex, choice and grammar, got ${found.length}`);
  return found[0];
}

function toSchema(json: JsonSchema | string): JsonSchema {
  if (typeof json !== "string") return json;
  const value = parseJson(json);
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonSchema;
  throw refusal("structured_outputs.json", `expected a JSON Schema: an object, got ${describe(value)}`);
}
