/**
 * A conversation as one prompt, by the checkpoint's own Jinja template.
 *
 * Only the template's text may hold special tokens; what the client sent is shielded while the template runs.
 * The text between two special tokens comes back as one segment, so that it is encoded in one run, as in training.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import type { ChatMessage } from "../client.ts";
import { CheckpointError, InvalidRequestError } from "../errors.ts";
import type { Segment } from "./special-tokens.ts";
import { TextShield } from "./text-shield.ts";
import { reason, type TokenizerConfig } from "./tokenizer-files.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The `direct` condition of HRM-Text's training format, for checkpoints of that family which ship no template. Single turn. */
const HRM_TEXT_TEMPLATE = "<|im_start|><|object_ref_start|>{{ (messages | last).content | trim }}<|im_end|>";
const HRM_TEXT_TOKENS = ["<|im_start|>", "<|object_ref_start|>", "<|im_end|>"];

const TOKEN_NAMES = [
  "bos_token",
  "eos_token",
  "unk_token",
  "pad_token",
  "sep_token",
  "cls_token",
  "mask_token",
] as const;

/** Names that the template engine declares itself or that this file sets: a client's variable must not redeclare them. */
const RESERVED_NAMES: ReadonlySet<string> = new Set([
  ...TOKEN_NAMES,
  ...["messages", "add_generation_prompt", "namespace", "range", "strftime_now", "raise_exception", "loop"],
  ...["true", "false", "none", "True", "False", "None"],
]);

export type TemplateVariables = Readonly<Record<string, unknown>>;

export class ChatTemplate {
  readonly #source: string;
  readonly #tokenizer: Tokenizer;
  #parsed: Template | undefined;

  constructor(source: string, tokenizer: Tokenizer) {
    this.#source = source;
    this.#tokenizer = tokenizer;
  }

  /**
   * The prompt that asks for the next message. `variables` are a client's own (`enable_thinking` and the like).
   * Throws `InvalidRequestError` when the template refuses the conversation.
   */
  render(messages: readonly ChatMessage[], variables: TemplateVariables = {}): Segment[] {
    const clientTexts = [...stringsOf(messages), ...stringsOf(variables)];
    const { specials, specialTokens } = this.#tokenizer;
    const shield = new TextShield(specials, [this.#source, ...specialTokens.keys(), ...clientTexts]);
    const prompt = this.#run(shield, messages, variables);
    return specials
      .split(prompt)
      .map((part) => (part.kind === "text" ? { ...part, text: shield.restore(part.text) } : part));
  }

  #run(shield: TextShield, messages: readonly ChatMessage[], variables: TemplateVariables): string {
    const allowed = Object.fromEntries(
      Object.entries(variables).filter(([name]) => !RESERVED_NAMES.has(name)),
    );
    const guarded = guardStrings({ tools: null, documents: null, ...allowed }, shield) as Record<
      string,
      unknown
    >;
    const own = messages.map(({ role, content }) => ({
      role: shield.guard(role),
      content: shield.guard(content),
    }));
    try {
      // Parsed on first use: a template that cannot be read must not keep /v1/completions from working.
      this.#parsed ??= new Template(this.#source);
      return this.#parsed.render({
        ...guarded,
        ...tokenNames(this.#tokenizer.config),
        messages: own,
        add_generation_prompt: true,
      });
    } catch (error) {
      const message = shield.restore(reason(error));
      throw new InvalidRequestError(`Cannot render the chat template: ${message}`, "messages");
    }
  }
}

/** The template of a checkpoint folder: its `chat_template.jinja`, else `tokenizer_config.json`'s, else the family's own. */
export function loadChatTemplate(
  dir: string,
  modelType: string,
  tokenizer: Tokenizer,
): ChatTemplate | undefined {
  const source = templateFile(dir) ?? configured(tokenizer.config) ?? familyDefault(modelType, tokenizer);
  return source === undefined ? undefined : new ChatTemplate(source, tokenizer);
}

function templateFile(dir: string): string | undefined {
  const path = join(dir, "chat_template.jinja");
  if (!existsSync(path)) return undefined;
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new CheckpointError(`Cannot read ${path}: expected a readable file, got ${reason(error)}`, {
      cause: error,
    });
  }
}

function configured({ chat_template: template }: TokenizerConfig): string | undefined {
  if (template === undefined || template === null || typeof template === "string")
    return template ?? undefined;
  return template.find(({ name }) => name === "default")?.template;
}

function familyDefault(modelType: string, tokenizer: Tokenizer): string | undefined {
  const fits =
    modelType === "hrm_text" && HRM_TEXT_TOKENS.every((token) => tokenizer.specialTokens.has(token));
  return fits ? HRM_TEXT_TEMPLATE : undefined;
}

function tokenNames(config: TokenizerConfig): Record<string, string> {
  return Object.fromEntries(
    TOKEN_NAMES.flatMap((name) => (config[name] === undefined ? [] : [[name, config[name]]])),
  );
}

function stringsOf(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [key, ...stringsOf(inner)]);
}

function guardStrings(value: unknown, shield: TextShield): unknown {
  if (typeof value === "string") return shield.guard(value);
  if (Array.isArray(value)) return value.map((inner) => guardStrings(inner, shield));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [shield.guard(key), guardStrings(inner, shield)]),
  );
}
