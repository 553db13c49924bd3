/**
 * Calls as Llama 3 writes them: `{"name": ..., "parameters": {...}}` and nothing else, in some prompts behind
 * `<|python_tag|>`, several with ";" between them.
 */
import type { ToolCallFormat } from "./format.ts";
import { JsonCallParser } from "./json-calls.ts";

const syntax = { opening: "<|python_tag|>", isOpeningOptional: true, closing: ";" };

export const llama3Json: ToolCallFormat = {
  newParser: (toolNames) => new JsonCallParser(syntax, toolNames),
  frame: ({ name }) => ({ begin: `{"name": ${JSON.stringify(name)}, "parameters": `, end: "}" }),
  separator: "; ",
  trigger: '{"name": ',
};
