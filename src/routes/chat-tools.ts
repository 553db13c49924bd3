/** `tools` and `tool_choice` of `/v1/chat/completions`. */
import { z } from "zod";
import { TOOLS_MAX } from "../limits.ts";
import { type GivenTools, jsonSchema, toolName } from "./conversation/tools.ts";
import { array, boolean, object } from "./validation.ts";

const functionType = z.literal("function", { error: '"function", as nothing else is supported' });

const tool = object({
  type: functionType,
  function: object({
    name: toolName,
    description: z.string({ error: "a string" }).optional(),
    parameters: jsonSchema.optional(),
    strict: boolean.optional(),
  }),
});

export const tools = array(tool, TOOLS_MAX, "an array of tools");

const named = object({ type: functionType, function: object({ name: toolName }) });

export const toolChoice = z.union([z.enum(["none", "auto", "required"]), named], {
  error: '"none", "auto", "required" or {"type": "function", "function": {"name": ...}}',
});

/** What a body says about tools, in the terms of a conversation. */
export function toGivenTools(body: {
  tools?: z.output<typeof tools>;
  tool_choice?: z.output<typeof toolChoice>;
}): GivenTools {
  const { tool_choice: choice } = body;
  return {
    tools: body.tools?.map((tool) => tool.function),
    toolChoice: typeof choice === "object" ? { name: choice.function.name } : choice,
  };
}
