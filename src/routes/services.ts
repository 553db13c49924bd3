/** What the routes need from outside. Clock and randomness come from the composition root, so tests can fix them. */
import type { EngineClient, FinishReason, ToolCallStyle } from "../engine/client.ts";
import type { StartTimer } from "./sse.ts";

export type LogEntry =
  /** `status` was sent after `durationMs`; a stream goes on after that. */
  | { type: "request"; requestId: string; method: string; path: string; status: number; durationMs: number }
  /** A failure of the server's, of which the client learns no more than that there was one. */
  | { type: "error"; requestId: string; error: unknown }
  /** An answer of a generation (`id`, as in the response) that has ended by itself. */
  | {
      type: "answer";
      id: string;
      reason: FinishReason;
      promptTokens: number;
      completionTokens: number;
      /** Null for one without tokens. */
      firstTokenMs: number | null;
      durationMs: number;
    }
  /** What a generation was asked; only where that is wished. */
  | { type: "prompt"; id: string; text: string };

/** How the server takes conversations; all of it is the operator's to say. */
export interface ChatSettings {
  /** Whether a request may bring a chat template, which is a program that runs on this machine. */
  trustRequestTemplates: boolean;
  /** "auto": as the chat template shows. */
  toolCallParser: ToolCallStyle | "auto";
  /** "think": the model thinks between `<think>` and `</think>`. */
  reasoningParser: ReasoningParser;
}

export const reasoningParsers = ["auto", "think", "none"] as const;
export type ReasoningParser = (typeof reasoningParsers)[number];

export const defaultChatSettings: ChatSettings = {
  trustRequestTemplates: false,
  toolCallParser: "auto",
  reasoningParser: "auto",
};

export interface Services {
  engine: EngineClient;
  chat: ChatSettings;
  /** Milliseconds since the epoch. */
  clock: () => number;
  /** Text that no other call returns, fit for an id: letters and digits. */
  newId: () => string;
  /** 64 random bits, for a request without a seed. */
  randomSeed: () => bigint;
  log: (entry: LogEntry) => void;
  startTimer: StartTimer;
}

export interface AppEnv {
  Variables: { requestId: string };
}
