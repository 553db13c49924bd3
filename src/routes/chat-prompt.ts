/** What of `/v1/chat/completions` decides how messages become a prompt. */
import { z } from "zod";
import type { ChatTemplateOptions } from "../engine/client.ts";
import type { ChatSettings } from "./services.ts";
import { boolean, refusal } from "./validation.ts";

const reasoningEfforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"] as const;

export const promptParameters = {
  chat_template: z.string({ error: "a Jinja template" }).optional(),
  chat_template_kwargs: z.record(z.string(), z.unknown(), { error: "an object" }).optional(),
  add_generation_prompt: boolean.optional(),
  continue_final_message: boolean.optional(),
  reasoning_effort: z
    .enum(reasoningEfforts, { error: `one of ${reasoningEfforts.map((effort) => `"${effort}"`).join(", ")}` })
    .optional(),
};

export type ReasoningEffort = (typeof reasoningEfforts)[number];

type PromptParameters = z.output<z.ZodObject<typeof promptParameters>>;

export function toTemplateOptions(
  parameters: PromptParameters,
  { trustRequestTemplates }: ChatSettings,
): ChatTemplateOptions {
  const { chat_template: chatTemplate, chat_template_kwargs, reasoning_effort } = parameters;
  const { add_generation_prompt, continue_final_message: continueFinalMessage = false } = parameters;
  if (chatTemplate !== undefined && !trustRequestTemplates) {
    throw refusal(
      "chat_template",
      "expected a server started with --trust-request-chat-template, got another",
    );
  }
  if (continueFinalMessage && add_generation_prompt) {
    throw refusal("continue_final_message", "expected add_generation_prompt to be false with it, got true");
  }
  return {
    chatTemplate,
    continueFinalMessage,
    addGenerationPrompt: add_generation_prompt ?? !continueFinalMessage,
    templateKwargs: { ...effortVariables(reasoning_effort), ...chat_template_kwargs },
  };
}

/** An effort in the variables that templates read; of no effect on one that reads none of them. */
export function effortVariables(effort: ReasoningEffort | undefined): Record<string, unknown> {
  if (effort === undefined) return {};
  const isThinking = effort !== "none";
  return {
    enable_thinking: isThinking,
    thinking: isThinking,
    ...(isThinking && { reasoning_effort: effort }),
  };
}
