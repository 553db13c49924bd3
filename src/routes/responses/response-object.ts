/** The response object: what was asked for, and what has come of it. */
import type { AssistantFinish } from "../conversation/conversation.ts";
import type { ModelCard } from "../../engine/client.ts";
import type { ErrorBody } from "../errors.ts";
import type { OutputItem } from "./output-items.ts";
import type { ResponseParameters } from "./parameters.ts";

export type ResponseObject = ResponseHead & ResponseState;

/** What stays the same. */
export type ResponseHead = ReturnType<typeof toHead>;

export interface ResponseState {
  status: "in_progress" | "completed" | "incomplete" | "failed";
  /** Seconds since the epoch. */
  completed_at: number | null;
  output: readonly OutputItem[];
  incomplete_details: { reason: "max_output_tokens" } | null;
  error: { code: string; message: string } | null;
  usage: ResponseUsage | null;
}

export interface ResponseUsage {
  input_tokens: number;
  input_tokens_details: { cached_tokens: number };
  output_tokens: number;
  output_tokens_details: { reasoning_tokens: number };
  total_tokens: number;
}

/** The request, repeated with what it left to be chosen. */
export function toHead(
  asked: ResponseParameters,
  { id, created }: { id: string; created: number },
  model: ModelCard,
) {
  return {
    id,
    object: "response",
    created_at: created,
    model: model.id,
    previous_response_id: asked.previous_response_id ?? null,
    instructions: asked.instructions ?? null,
    tools: asked.tools.map(({ description = null, parameters = null, strict = null, ...tool }) => {
      return { ...tool, description, parameters, strict };
    }),
    tool_choice: asked.tool_choice ?? "auto",
    parallel_tool_calls: asked.parallel_tool_calls,
    text: asked.text,
    reasoning: { effort: asked.reasoning.effort ?? null, summary: asked.reasoning.summary ?? null },
    max_output_tokens: asked.max_output_tokens ?? null,
    max_tool_calls: null,
    temperature: asked.temperature ?? model.defaultSampling.temperature,
    top_p: asked.top_p ?? model.defaultSampling.topP,
    top_logprobs: asked.top_logprobs ?? 0,
    presence_penalty: asked.presence_penalty ?? 0,
    frequency_penalty: asked.frequency_penalty ?? 0,
    truncation: "disabled",
    background: false,
    store: asked.store,
    service_tier: "default",
    metadata: asked.metadata,
    user: asked.user ?? null,
    safety_identifier: asked.safety_identifier ?? null,
    prompt_cache_key: asked.prompt_cache_key ?? null,
  };
}

export const begun: ResponseState = {
  status: "in_progress",
  completed_at: null,
  output: [],
  incomplete_details: null,
  error: null,
  usage: null,
};

/** `now` in seconds since the epoch. */
export function ended(output: readonly OutputItem[], finish: AssistantFinish, now: number): ResponseState {
  const state = { ...begun, output, usage: toUsage(finish) };
  return finish.reason === "length"
    ? { ...state, status: "incomplete", incomplete_details: { reason: "max_output_tokens" } }
    : { ...state, status: "completed", completed_at: now };
}

export function failed(output: readonly OutputItem[], { code, message }: ErrorBody["error"]): ResponseState {
  return { ...begun, status: "failed", output, error: { code: code ?? "server_error", message } };
}

function toUsage({
  promptTokens,
  completionTokens,
  reasoningTokens,
  cachedTokens = 0,
}: AssistantFinish): ResponseUsage {
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens },
    total_tokens: promptTokens + completionTokens,
  };
}
