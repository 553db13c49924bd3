/** Raw prompts, one or several, each of them text or token ids. */
import { z } from "zod";
import type { EngineClient } from "../engine/client.ts";
import { isTokenId } from "./token-parameters.ts";

/** Text to be tokenized, or token ids. */
export type RawPrompt = string | readonly number[];

/** A parameter that is one prompt or an array of prompts; zod's unions would try every id. */
export function rawPrompts(countMax: number) {
  return z
    .unknown()
    .optional()
    .transform((value, context): RawPrompt[] => {
      if (isRawPrompt(value)) return [value];
      const isArray = Array.isArray(value) && value.length > 0 && value.length <= countMax;
      if (isArray && value.every(isRawPrompt)) return value;
      context.addIssue(`a string, an array of token ids, or an array of 1 to ${countMax} of these`);
      return z.NEVER;
    });
}

function isRawPrompt(value: unknown): value is RawPrompt {
  return typeof value === "string" || (Array.isArray(value) && value.length > 0 && value.every(isTokenId));
}

/** `addSpecialTokens` is true by default, and means nothing for ids. */
export function toIds(
  prompt: RawPrompt,
  { text }: EngineClient,
  options: { addSpecialTokens?: boolean } = {},
): readonly number[] {
  return typeof prompt === "string" ? text.encodePrompt(prompt, options) : prompt;
}
