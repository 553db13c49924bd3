/**
 * A conversation as one prompt, by the checkpoint's own Jinja template.
 *
 * Only the template's text may hold special tokens; what the client sent is shielded while the template runs.
 * The text between two special tokens comes back as one segment, so that it is encoded in one run, as in training.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import type { ChatMessage, ChatTemplateOptions, ToolCall, ToolDefinition } from "../client.ts";
import { CheckpointError, InvalidRequestError } from "../errors.ts";
import { knowsTools } from "./chat-format.ts";
import type { Segment } from "./special-tokens.ts";
import { TextShield } from "./text-shield.ts";
import { reason, type TokenizerConfig } from "./tokenizer-files.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { toolsAsText } from "./tool-text.ts";

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
  ...[
    "messages",
    "tools",
    "add_generation_prompt",
    "namespace",
    "range",
    "strftime_now",
    "raise_exception",
    "loop",
  ],
  ...["true", "false", "none", "True", "False", "None"],
]);

export class ChatTemplate {
  readonly source: string;
  readonly #tokenizer: Tokenizer;
  #parsed: Template | undefined;

  constructor(source: string, tokenizer: Tokenizer) {
    this.source = source;
    this.#tokenizer = tokenizer;
  }

  /** The prompt that asks for the next message. Throws `InvalidRequestError` when the template refuses the conversation. */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Segment[] {
    const { continueFinalMessage = false } = options;
    if (continueFinalMessage && this.#isSingleTurn()) return this.#continueTurn(messages, options);
    const variables = toVariables(...this.#plain(messages, options));
    const { specials, specialTokens } = this.#tokenizer;
    const texts = [this.source, ...specialTokens.keys(), ...stringsOf(variables)];
    const shield = new TextShield(specials, texts);
    const prompt = this.#run(shield, variables);
    const end = continueFinalMessage ? endOfFinal(prompt, shield.guard(finalText(messages))) : undefined;
    return specials
      .split(prompt.slice(0, end))
      .map((part) => (part.kind === "text" ? { ...part, text: shield.restore(part.text) } : part));
  }

  /** A template that shows the last message only cannot show an answer: it stands behind the prompt that asked for it. */
  #continueTurn(messages: readonly ChatMessage[], options: ChatTemplateOptions): Segment[] {
    const asked = { ...options, continueFinalMessage: false, addGenerationPrompt: true };
    return [...this.render(messages.slice(0, -1), asked), { kind: "text", text: finalText(messages) }];
  }

  /** Messages and options in terms that the template knows. */
  #plain(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
  ): [readonly ChatMessage[], ChatTemplateOptions] {
    const { tools = [] } = options;
    const isAboutTools = tools.length > 0 || messages.some(({ role }) => role === "tool");
    if (!isAboutTools || knowsTools(this.source)) return [messages, options];
    return [toolsAsText(messages, tools, this.#isSingleTurn()), { ...options, tools: [] }];
  }

  /** Whether the last message is all that the template shows. */
  #isSingleTurn(): boolean {
    const [first, last] = ["0d2f7c1e", "b65a9384"];
    const messages = [first, "", last].map((content, index) => ({
      role: index === 1 ? "assistant" : "user",
      content,
    }));
    try {
      const prompt = this.#template().render({ ...tokenNames(this.#tokenizer.config), messages });
      return prompt.includes(last) && !prompt.includes(first);
    } catch {
      return false;
    }
  }

  #template(): Template {
    // Parsed on first use: a template that cannot be read must not keep /v1/completions from working.
    this.#parsed ??= new Template(this.source);
    return this.#parsed;
  }

  #run(shield: TextShield, variables: Record<string, unknown>): string {
    try {
      const guarded = guardStrings(variables, shield) as Record<string, unknown>;
      return this.#template().render({ ...guarded, ...tokenNames(this.#tokenizer.config) });
    } catch (error) {
      const message = shield.restore(reason(error));
      throw new InvalidRequestError(`Cannot render the chat template: ${message}`, "messages");
    }
  }
}

/** What the template sees, in the names and shapes that transformers gave them. */
function toVariables(
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
): Record<string, unknown> {
  const { tools = [], templateKwargs = {}, continueFinalMessage = false } = options;
  const { addGenerationPrompt = !continueFinalMessage } = options;
  const allowed = Object.entries(templateKwargs).filter(([name]) => !RESERVED_NAMES.has(name));
  return {
    tools: tools.length > 0 ? tools.map(toTemplateTool) : null,
    documents: null,
    ...Object.fromEntries(allowed),
    messages: messages.map(toTemplateMessage),
    add_generation_prompt: addGenerationPrompt,
  };
}

/** A key that has nothing to say is left out: templates ask whether it is there. */
function toTemplateMessage(message: ChatMessage): object {
  const { role, content, name, reasoning, toolCalls = [], toolCallId } = message;
  return {
    role,
    content,
    ...(name !== undefined && { name }),
    ...(reasoning !== undefined && { reasoning_content: reasoning, reasoning }),
    ...(toolCalls.length > 0 && { tool_calls: toolCalls.map(toTemplateCall) }),
    ...(toolCallId !== undefined && { tool_call_id: toolCallId }),
  };
}

/** Arguments as an object, which is what templates expect; text that is none stays text. */
function toTemplateCall({ id, name, arguments: text }: ToolCall): object {
  return { id, type: "function", function: { name, arguments: parsedOr(text) } };
}

function parsedOr(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function toTemplateTool({ name, description, parameters, strict }: ToolDefinition): object {
  return {
    type: "function",
    function: {
      name,
      ...(description !== undefined && { description }),
      ...(parameters !== undefined && { parameters }),
      ...(strict !== undefined && { strict }),
    },
  };
}

/** The text that is to be continued, which must be an assistant's. */
function finalText(messages: readonly ChatMessage[]): string {
  const { role, content, toolCalls = [] } = messages[messages.length - 1];
  if (role === "assistant" && content.trim() !== "" && toolCalls.length === 0) return content;
  throw new InvalidRequestError(
    "Cannot continue the final message: expected an assistant's with text and without calls, got another",
    "continue_final_message",
  );
}

/** Where the final message's text ends in the prompt, whether or not the template trims it, as transformers finds it. */
function endOfFinal(prompt: string, content: string): number {
  const start = prompt.lastIndexOf(content.trim());
  if (start < 0) {
    throw new InvalidRequestError(
      "Cannot continue the final message: expected a template that shows its text, got one that does not",
      "continue_final_message",
    );
  }
  const untrimmed = content.trimStart();
  return start + (prompt.startsWith(untrimmed, start) ? untrimmed : content.trim()).length;
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
