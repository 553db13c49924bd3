/** A checkpoint's text side in one object: prompts and conversations to ids, ids to text, whole or as they come. */
import type { ChatMessage, TextCodec } from "../client.ts";
import { InvalidRequestError } from "../errors.ts";
import { loadChatTemplate, type TemplateVariables } from "./chat-template.ts";
import { Detokenizer } from "./detokenizer.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";

export interface ModelTextCodec extends TextCodec {
  readonly tokenizer: Tokenizer;
  /** `variables` are a client's own for the template; names that the template engine needs are left out. */
  encodeChat(messages: readonly ChatMessage[], variables?: TemplateVariables): number[];
  /** A decoder for one generation, which continues this prompt. */
  newDetokenizer(promptIds: readonly number[]): Detokenizer;
}

/** Reads the tokenizer and the chat template of a checkpoint folder. Throws `CheckpointError`. */
export function createTextCodec(dir: string, modelType: string): ModelTextCodec {
  const tokenizer = loadTokenizer(dir);
  const template = loadChatTemplate(dir, modelType, tokenizer);
  return {
    tokenizer,
    encodePrompt: (text) => tokenizer.encodePrompt(text),
    encodeChat(messages, variables) {
      if (template === undefined) {
        throw new InvalidRequestError(
          "Cannot answer a chat request: expected a model with a chat template, got one without; use /v1/completions",
          "messages",
        );
      }
      return tokenizer.encodeSegments(template.render(messages, variables));
    },
    decode: (ids) => tokenizer.decode(ids),
    newDetokenizer: (promptIds) => new Detokenizer(tokenizer, promptIds),
  };
}
