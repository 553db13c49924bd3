/** The rules of tools and of choosing among them, in whatever dialect they are written. */
import { z } from "zod";
import type { JsonSchema, ToolDefinition } from "../../engine/client.ts";
import { NAME_CHARS_MAX } from "../../limits.ts";
import { quote } from "../errors.ts";
import { refusal } from "../validation.ts";
import type { ToolChoice } from "./conversation.ts";

const nameError = `1 to ${NAME_CHARS_MAX} letters, digits, or any of _ - . :`;

export const toolName = z
  .string({ error: nameError })
  .max(NAME_CHARS_MAX, { error: nameError })
  .regex(/^[\w.:-]+$/, { error: nameError });

/** Whether it is a good schema is for others to say. */
export const jsonSchema = z.custom<JsonSchema>(
  (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  { error: "a JSON Schema" },
);

export interface GivenTools {
  tools?: readonly ToolDefinition[];
  toolChoice?: ToolChoice;
}

/** The choice, which is "auto" with tools and "none" without. Throws `InvalidRequestError` for one that cannot be made. */
export function checkTools({ tools, toolChoice }: GivenTools): {
  tools: readonly ToolDefinition[];
  toolChoice: ToolChoice;
} {
  if (tools === undefined) {
    if (toolChoice !== undefined && toolChoice !== "none") {
      throw refusal("tool_choice", "expected tools to choose from, got a request without");
    }
    return { tools: [], toolChoice: "none" };
  }
  if (tools.length === 0) throw refusal("tools", "expected at least one tool, got an array of 0");
  const names = new Set(tools.map(({ name }) => name));
  if (names.size < tools.length) throw refusal("tools", "expected different names, got one twice");
  if (typeof toolChoice === "object" && !names.has(toolChoice.name)) {
    throw refusal("tool_choice", `expected the name of one of the tools, got ${quote(toolChoice.name)}`);
  }
  return { tools, toolChoice: toolChoice ?? "auto" };
}
