/** The parameters of `POST /v1/messages`, and those of them that decide the prompt, which `count_tokens` takes. */
import { z } from "zod";
import { STOP_STRING_CHARS_MAX, STOP_STRINGS_MAX, TOOLS_MAX } from "../../limits.ts";
import { jsonSchema, toolName } from "../conversation/tools.ts";
import { commonParameters } from "../parameters.ts";
import { array, boolean, integerFrom, object, stringUpTo, variant } from "../validation.ts";
import { cacheControl, messages, textBlocks } from "./content.ts";

const tool = object({
  type: z.literal("custom", { error: '"custom", as nothing else can be called' }).optional(),
  name: toolName,
  description: z.string({ error: "a string" }).optional(),
  input_schema: jsonSchema,
  strict: boolean.optional(),
  cache_control: cacheControl,
});

const disable_parallel_tool_use = boolean.optional();
const toolChoice = variant(
  {
    auto: object({ type: z.literal("auto"), disable_parallel_tool_use }),
    any: object({ type: z.literal("any"), disable_parallel_tool_use }),
    tool: object({ type: z.literal("tool"), name: toolName, disable_parallel_tool_use }),
    none: object({ type: z.literal("none") }),
  },
  '"auto", "any", "tool" or "none"',
);

const display = z.enum(["summarized", "omitted"], { error: '"summarized" or "omitted"' }).optional();
const thinking = variant(
  {
    disabled: object({ type: z.literal("disabled") }),
    adaptive: object({ type: z.literal("adaptive"), display }),
    /** What the model thinks counts within `max_tokens`; there is no bound of its own. */
    enabled: object({ type: z.literal("enabled"), budget_tokens: integerFrom(1), display }),
  },
  '"enabled", "adaptive" or "disabled"',
);

const efforts = ["low", "medium", "high", "xhigh", "max"] as const;
const outputConfig = object({
  effort: z
    .enum(efforts, { error: `one of ${efforts.map((effort) => `"${effort}"`).join(", ")}` })
    .optional(),
  format: variant(
    { json_schema: object({ type: z.literal("json_schema"), schema: jsonSchema }) },
    '"json_schema"',
  ).optional(),
});

const prompt = {
  model: commonParameters.model,
  messages,
  system: textBlocks.optional(),
  tools: array(tool, TOOLS_MAX, "an array of tools").default([]),
  tool_choice: toolChoice.optional(),
  thinking: thinking.default({ type: "disabled" }),
  output_config: outputConfig.default({}),
  cache_control: cacheControl,
};

export const countParameters = object(prompt);
export type PromptParameters = z.output<typeof countParameters>;

/** With the limits of the answer also under the names that they have at the other endpoints. */
export const parameters = object({
  ...prompt,
  stream: commonParameters.stream,
  max_tokens: integerFrom(1),
  stop_sequences: array(stringUpTo(STOP_STRING_CHARS_MAX), STOP_STRINGS_MAX, "an array of strings").default(
    [],
  ),
  temperature: commonParameters.temperature,
  top_p: commonParameters.top_p,
  top_k: commonParameters.top_k,
  metadata: commonParameters.metadata,
  service_tier: commonParameters.service_tier,
}).transform((asked) => ({ ...asked, max_completion_tokens: asked.max_tokens, stop: asked.stop_sequences }));

export type MessageParameters = z.output<typeof parameters>;
