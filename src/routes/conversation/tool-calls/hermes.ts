/** Calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, among text. */
import type { ToolCallFormat } from "./format.ts";
import { JsonCallParser } from "./json-calls.ts";

const syntax = { opening: "<tool_call>", isOpeningOptional: false, closing: "</tool_call>" };

export const hermes: ToolCallFormat = {
  newParser: (toolNames) => new JsonCallParser(syntax, toolNames),
  frame: ({ name }) => ({
    begin: `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": `,
    end: "}\n</tool_call>",
  }),
  separator: "\n",
  trigger: syntax.opening,
};
