/**
 * The door between HTTP and the engine: what a route may ask for and what it gets back.
 *
 * Routes import this file and `errors.ts` only. Everything here is plain data or an interface, so a route can be
 * tested against a scripted client and the engine may live in another thread.
 */

import type { Logprobs } from "./sampling/logprobs.ts";
import type { PenaltyParams } from "./sampling/penalties.ts";
import type { EngineStats } from "./stats.ts";

export type { EngineStats } from "./stats.ts";

/** How the next token is chosen. Every field is set: defaults are the business of whoever builds the request. */
export interface SamplingParams {
  /** Most tokens to generate, at least 1. */
  maxTokens: number;
  /** 0 is greedy (arg max, lowest id on a tie). */
  temperature: number;
  /** Keep the most likely tokens whose probabilities reach this sum; 1 keeps all. */
  topP: number;
  /** Keep this many of the most likely tokens; 0 keeps all. */
  topK: number;
  /** Keep tokens at least this likely relative to the most likely one; 0 keeps all. */
  minP: number;
  /** 64-bit seed of the request's own random numbers. */
  seed: bigint;
  /** Generation ends before the first of these strings, which is not part of the text unless `includeStop` says so. */
  stop: readonly string[];
  /** The text has the stop string, or the text of the id, that ended it. */
  includeStop?: boolean;
  /** The text has special tokens too, but for the one that ended it. */
  showSpecialTokens?: boolean;
  /** Answers to generate from the one prompt; 1 by default. Answer i draws from seed + i. */
  n?: number;
  /** An answer does not end before it has this many tokens. */
  minTokens?: number;
  /** The model's own end does not end an answer. */
  ignoreEos?: boolean;
  /** Further ids that end an answer. */
  stopTokenIds?: readonly number[];
  /** The only ids that may be chosen. */
  allowedTokenIds?: readonly number[];
  /** What changes logits before an id is chosen; the semantics are vLLM's. */
  penalties?: Partial<Omit<PenaltyParams, "minTokens" | "stopIds">>;
  /** Log-probabilities of each chosen id and of this many of the most likely ones, before any penalty or filter. */
  logprobs?: number;
  /**
   * The same of the prompt's own tokens, each as the ones before it foretell it. Refused where tokens see what comes
   * after them, so a Prefix LM's request needs a `prefixLength` of 0.
   */
  promptLogprobs?: number;
  /** What the answer must match, from its first character to its last. */
  grammar?: Grammar;
}

/** What an answer must match. `param` is the request's parameter that it came from, for errors. */
export type Grammar = { param?: string } & (
  | { type: "json-object" }
  | { type: "json-schema"; schema: JsonSchema | boolean }
  /** Of the whole answer, whether it has anchors or not. */
  | { type: "regex"; pattern: string }
  | { type: "choice"; choices: readonly string[] }
  /** In xgrammar's dialect; the first rule is `root`. */
  | { type: "ebnf"; grammar: string }
  /** xgrammar's structural tag: free text in which some spans are constrained. */
  | { type: "structural-tag"; tag: Readonly<Record<string, unknown>> }
);

/** One prompt to continue. Ids must lie in the model's vocabulary and leave room for at least one token. */
export interface GenerationRequest {
  id: string;
  promptIds: readonly number[];
  /**
   * How many leading prompt tokens see each other in both directions.
   * Left out: the whole prompt for a Prefix LM, 0 for a causal model.
   */
  prefixLength?: number;
  sampling: SamplingParams;
  /** Smaller goes first, where the engine orders by priority; 0 by default. */
  priority?: number;
  /** Requests with different salts share no cached prefix. */
  cacheSalt?: string;
  /** The mean of the prompt's final states is wanted, which is an embedding of it; not together with `promptLogprobs`. */
  wantsMeanState?: boolean;
  /** When the request fails unless it has finished, in milliseconds since the epoch. */
  deadlineMs?: number;
}

/** Log-probability of an id that was chosen, and the most likely ids in order. */
export type TokenLogprobs = Logprobs;

export type FinishReason = "stop" | "length";

/** What the engine tells of a prompt. */
export interface PromptResult {
  /** Leading tokens that were not computed, since their keys and values were cached. */
  cachedTokens: number;
  /** Of each token but the first, if the request asked for them. */
  logprobs?: readonly TokenLogprobs[];
  /** f32 [hidden]: the mean of all its tokens' final states, those that the head multiplies, if the request asked for it. */
  meanState?: Float32Array;
}

/**
 * What a generation yields: `prompt` once, before all others; of each answer (`choice`), any number of `text`, then
 * exactly one `finish`.
 */
export type GenerationEvent =
  | ({ type: "prompt" } & PromptResult)
  /** Text that is final: whole characters, never part of a stop string. `tokenIds` are the tokens accepted so far since the last event. */
  | {
      type: "text";
      choice: number;
      text: string;
      tokenIds: readonly number[];
      /** Of each id, if the request asked for them. */
      logprobs?: readonly TokenLogprobs[];
    }
  | {
      type: "finish";
      choice: number;
      reason: FinishReason;
      /** What of the request's own ended it: a stop string, or one of `stopTokenIds`. */
      stop?: string | number;
      promptTokens: number;
      completionTokens: number;
      /** Of the prompt's: leading ones that were not computed, since their keys and values were cached. */
      cachedTokens?: number;
    };

/** What becomes of the answers, the prompt aside. */
export type AnswerEvent = Exclude<GenerationEvent, { type: "prompt" }>;

/** What the service tells about its model. */
export interface ModelCard {
  /** The name requests use. */
  id: string;
  /** Seconds since the epoch at which the model was loaded. */
  created: number;
  /** Most tokens of prompt and answer together. */
  maxModelLen: number;
  /** Most answers of one request. */
  maxChoices: number;
  vocabSize: number;
  /** Of a token's state, and so of an embedding. */
  hiddenSize: number;
  /** True when the prompt is read in both directions. */
  isPrefixLm: boolean;
  /** The checkpoint's own sampling defaults (generation_config.json); a request's parameters go before them. */
  defaultSampling: Pick<SamplingParams, "temperature" | "topP" | "topK" | "minP">;
}

/** A JSON Schema, as plain data. */
export type JsonSchema = Readonly<Record<string, unknown>>;

/** A tool that the model may call. */
export interface ToolDefinition {
  name: string;
  description?: string;
  /** Of the arguments, which are an object. Left out: there are none. */
  parameters?: JsonSchema;
  /** The arguments must match `parameters` even where the model is free to call or not. */
  strict?: boolean;
}

export interface ToolCall {
  id: string;
  name: string;
  /** JSON text. */
  arguments: string;
}

export interface ChatMessage {
  role: "system" | "user" | "assistant" | "tool";
  /** "" where there is none, as for an assistant that only calls tools. */
  content: string;
  name?: string;
  /** What an assistant thought before it answered. */
  reasoning?: string;
  /** Of an assistant. */
  toolCalls?: readonly ToolCall[];
  /** Of a tool: the call that it answers. */
  toolCallId?: string;
}

/** How a conversation becomes a prompt. */
export interface ChatTemplateOptions {
  tools?: readonly ToolDefinition[];
  /** Variables for the template (`enable_thinking` and the like); names that the template engine needs are left out. */
  templateKwargs?: Readonly<Record<string, unknown>>;
  /** End where the assistant's next message begins; true by default, and false with `continueFinalMessage`. */
  addGenerationPrompt?: boolean;
  /** End within the last message, which must be an assistant's with text, for the model to go on with. */
  continueFinalMessage?: boolean;
  /** Instead of the checkpoint's own. */
  chatTemplate?: string;
}

/** How a family of models writes calls of tools; `src/routes/conversation/tool-calls/` reads them. */
export const toolCallStyles = ["hermes", "llama3-json"] as const;
export type ToolCallStyle = (typeof toolCallStyles)[number];

/** What a chat template shows of how its model answers. */
export interface ChatFormat {
  toolCalls: ToolCallStyle;
  /** Whether the model thinks between `<think>` and `</think>` before it answers. */
  thinks: boolean;
}

/** Text to ids and back. Throws `InvalidRequestError` for input that the model's template or vocabulary refuses. */
export interface TextCodec {
  /**
   * Ids of a raw prompt; special tokens spelled in it count as such, and the tokenizer's own BOS is added unless
   * `addSpecialTokens` is false.
   */
  encodePrompt(text: string, options?: { addSpecialTokens?: boolean }): number[];
  /** Ids of a conversation through the chat template; special tokens inside message content are plain text. */
  encodeChat(messages: readonly ChatMessage[], options?: ChatTemplateOptions): number[];
  /** Of the checkpoint's own template, or of one in its place. */
  chatFormat(chatTemplate?: string): ChatFormat;
  /** Special tokens are left out unless they are asked for. */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
  /** A token as the vocabulary writes it: "Ġword", "▁word"; "" for an id that is none. */
  spell(id: number): string;
}

export interface EngineClient {
  readonly model: ModelCard;
  readonly text: TextCodec;
  /** The device it runs on, in words. */
  readonly adapter: string;
  /**
   * Queues a request and streams its events. The first event may be long in coming; aborting the signal, or
   * leaving the iteration, ends the generation and frees what it held.
   * Throws (on the first `next()`) `InvalidRequestError`, `ContextLengthError`, `QueueFullError`, `EngineDeadError`.
   */
  submit(request: GenerationRequest, signal?: AbortSignal): AsyncIterable<GenerationEvent>;
  /** True until the engine has failed or been closed. */
  readonly healthy: boolean;
  /** How the engine is doing. Rejects with `EngineDeadError` once it has failed or been closed. */
  stats(): Promise<EngineStats>;
  close(): Promise<void>;
}
