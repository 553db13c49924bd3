/** A checkpoint's text side in one object: prompts and conversations to ids, ids to text, whole or as they come. */
import type { TextCodec } from "../client.ts";
import { InvalidRequestError } from "../errors.ts";
import { chatFormatOf } from "./chat-format.ts";
import { ChatTemplate, loadChatTemplate } from "./chat-template.ts";
import { Detokenizer } from "./detokenizer.ts";
import { type DecodeOptions, loadTokenizer, type Tokenizer } from "./tokenizer.ts";

export interface ModelTextCodec extends TextCodec {
  readonly tokenizer: Tokenizer;
  /** A decoder for one generation, which continues this prompt. */
  newDetokenizer(promptIds: readonly number[], options?: DecodeOptions): Detokenizer;
}

/** Reads the tokenizer and the chat template of a checkpoint folder. Throws `CheckpointError`. */
export function createTextCodec(dir: string, modelType: string): ModelTextCodec {
  const tokenizer = loadTokenizer(dir);
  const own = loadChatTemplate(dir, modelType, tokenizer);
  return {
    tokenizer,
    encodePrompt: (text, options) => tokenizer.encodePrompt(text, options),
    encodeChat(messages, options = {}) {
      const { chatTemplate } = options;
      const template = chatTemplate === undefined ? own : new ChatTemplate(chatTemplate, tokenizer);
      if (template === undefined) {
        throw new InvalidRequestError(
          "Cannot answer a chat request: expected a model with a chat template, got one without; use /v1/completions",
          "messages",
        );
      }
      return tokenizer.encodeSegments(template.render(messages, options));
    },
    chatFormat: (chatTemplate) => chatFormatOf(chatTemplate ?? own?.source ?? ""),
    decode: (ids, options) => tokenizer.decode(ids, options),
    spell: (id) => tokenizer.spell(id),
    newDetokenizer: (promptIds, options) => new Detokenizer(tokenizer, promptIds, options),
  };
}
