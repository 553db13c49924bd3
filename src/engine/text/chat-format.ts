/** What a chat template's source shows of its model: nothing else in a checkpoint says it. */
import type { ChatFormat } from "../client.ts";

export function chatFormatOf(source: string): ChatFormat {
  const isLlama3 = !source.includes("<tool_call>") && /python_tag|"parameters": dictionary/.test(source);
  return { toolCalls: isLlama3 ? "llama3-json" : "hermes", thinks: source.includes("</think>") };
}

/** Whether the template shows the model its tools. */
export function knowsTools(source: string): boolean {
  return /\btools\b/.test(source);
}
