/** The families of tool calls by name. */
import type { ToolCallStyle } from "../../../engine/client.ts";
import type { ToolCallFormat } from "./format.ts";
import { hermes } from "./hermes.ts";
import { llama3Json } from "./llama3-json.ts";

export const toolCallFormats: Readonly<Record<ToolCallStyle, ToolCallFormat>> = {
  hermes,
  "llama3-json": llama3Json,
};
