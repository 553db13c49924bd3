/** Raw prompts, one or several, each of them text or token ids. */
import { z } from "zod";
import type { EngineClient } from "../engine/client.ts";
import { PROMPTS_MAX } from "../limits.ts";
import { isTokenId } from "./token-parameters.ts";

/** Text to be tokenized, or token ids. */
export type RawPrompt = string | readonly number[];

/** A parameter that is one prompt or an array of prompts; zod's unions would try every id. */
export const rawPrompts = z.unknown().optional().transform(toRawPrompts);

function toRawPrompts(value: unknown, context: z.RefinementCtx): RawPrompt[] {
  if (isRawPrompt(value)) return [value];
  if (Array.isArray(value) && value.length > 0 && value.length <= PROMPTS_MAX && value.every(isRawPrompt)) {
    return value;
  }
  context.addIssue(`a string, an array of token ids, or an array of 1 to ${PROMPTS_MAX} of these`);
  return z.NEVER;
}

function isRawPrompt(value: unknown): value is RawPrompt {
  return typeof value === "string" || (Array.isArray(value) && value.length > 0 && value.every(isTokenId));
}

export function toIds(prompt: RawPrompt, { text }: EngineClient): readonly number[] {
  return typeof prompt === "string" ? text.encodePrompt(prompt) : prompt;
}
