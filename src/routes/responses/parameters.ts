/** The parameters of `POST /v1/responses`. Sampling, beyond what OpenAI has here, is that of the other endpoints. */
import { z } from "zod";
import {
  INCLUDES_MAX,
  NAME_CHARS_MAX,
  METADATA_KEY_CHARS_MAX,
  METADATA_PAIRS_MAX,
  METADATA_VALUE_CHARS_MAX,
  TOOLS_MAX,
  TOP_LOGPROBS_MAX,
} from "../../limits.ts";
import { promptParameters } from "../chat-prompt.ts";
import { jsonSchema, toolName } from "../conversation/tools.ts";
import { commonParameters } from "../parameters.ts";
import {
  array,
  boolean,
  integerBetween,
  integerFrom,
  object,
  only,
  stringUpTo,
  variant,
} from "../validation.ts";
import { input } from "./items.ts";

/** Those that mean the same at every endpoint. */
const shared = z.object(commonParameters).pick({
  model: true,
  stream: true,
  priority: true,
  cache_salt: true,
  temperature: true,
  top_p: true,
  top_k: true,
  min_p: true,
  seed: true,
  presence_penalty: true,
  frequency_penalty: true,
  repetition_penalty: true,
  logit_bias: true,
  allowed_token_ids: true,
  bad_words: true,
  stop: true,
  stop_token_ids: true,
  ignore_eos: true,
  min_tokens: true,
  service_tier: true,
}).shape;

const text = z.string({ error: "a string" });

const tool = variant(
  {
    function: object({
      type: z.literal("function"),
      name: toolName,
      description: text.optional(),
      parameters: jsonSchema.optional(),
      strict: boolean.optional(),
    }),
  },
  '"function", as nothing else can be called',
);

const toolChoice = z.union(
  [z.enum(["none", "auto", "required"]), object({ type: z.literal("function"), name: toolName })],
  { error: '"none", "auto", "required" or a function by name' },
);

const format = variant(
  {
    text: object({ type: z.literal("text") }),
    json_object: object({ type: z.literal("json_object") }),
    json_schema: object({
      type: z.literal("json_schema"),
      name: toolName,
      description: text.optional(),
      schema: jsonSchema,
      strict: boolean.optional(),
    }),
  },
  '"text", "json_object" or "json_schema"',
);

const pairsError =
  `an object of at most ${METADATA_PAIRS_MAX} strings of ${METADATA_VALUE_CHARS_MAX} characters, ` +
  `with names of ${METADATA_KEY_CHARS_MAX}`;
const metadata = z
  .record(
    z.string().max(METADATA_KEY_CHARS_MAX, { error: pairsError }),
    z.string({ error: pairsError }).max(METADATA_VALUE_CHARS_MAX, { error: pairsError }),
    { error: pairsError },
  )
  .refine((pairs) => Object.keys(pairs).length <= METADATA_PAIRS_MAX, { error: pairsError });

/** For the client's own accounting, or for caches and abuse checks that are not here: of no effect, but some are repeated. */
const accounting = {
  user: text.optional(),
  safety_identifier: text.optional(),
  prompt_cache_key: text.optional(),
  prompt_cache_retention: z.unknown().optional(),
};

const own = {
  input: input.default([]),
  instructions: text.optional(),
  previous_response_id: stringUpTo(NAME_CHARS_MAX).optional(),
  store: boolean.default(false),
  stream_options: object({ include_obfuscation: only(false).optional() }).optional(),
  tools: array(tool, TOOLS_MAX, "an array of tools").default([]),
  tool_choice: toolChoice.optional(),
  parallel_tool_calls: boolean.default(true),
  text: object({
    format: format.default({ type: "text" }),
    verbosity: z.literal("medium", { error: '"medium", as nothing else is supported' }).optional(),
  }).default({ format: { type: "text" } }),
  max_output_tokens: integerFrom(1).optional(),
  top_logprobs: integerBetween(0, TOP_LOGPROBS_MAX).optional(),
  include: array(
    z.literal("message.output_text.logprobs", {
      error: '"message.output_text.logprobs", as nothing else is supported',
    }),
    INCLUDES_MAX,
    "an array of names",
  ).default([]),
  metadata: metadata.default({}),
  reasoning: object({
    effort: promptParameters.reasoning_effort,
    summary: z.literal("auto", { error: '"auto", as thoughts are given as they are' }).optional(),
  }).default({}),
  truncation: z.literal("disabled", { error: '"disabled", as nothing else is supported' }).optional(),
  background: only(false).optional(),
};

/** With the limit of the answer also under the name that it has at the other endpoints. */
export const parameters = object({ ...shared, ...accounting, ...own }).transform((asked) => ({
  ...asked,
  max_completion_tokens: asked.max_output_tokens,
  stream_options: undefined,
}));

export type ResponseParameters = z.output<typeof parameters>;
