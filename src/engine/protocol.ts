/** Messages between the client's thread and the engine's. All are plain data for structured clone. */
import type { KernelProfile } from "../gpu/profile.ts";
import type { AdmittedRequest } from "./admission.ts";
import type { CoreEvent } from "./core.ts";
import { InvalidRequestError } from "./errors.ts";
import type { Vocabulary } from "./grammar/protocol.ts";
import type { EngineOptions, LoadStage } from "./load-engine.ts";
import type { EngineStats } from "./stats.ts";

export type ToEngine =
  | { type: "load"; options: EngineOptions }
  | { type: "submit"; request: AdmittedRequest }
  /** Once, before the first request with a grammar. */
  | { type: "vocabulary"; vocabulary: Vocabulary }
  /** Without a choice, all answers of the request. */
  | { type: "cancel"; id: string; choice?: number }
  /** The reader of a request is slow, or has caught up. */
  | { type: "pause"; id: string }
  | { type: "resume"; id: string }
  | { type: "profile" }
  | { type: "stats" }
  | { type: "close" };

/** An error by name, so that the other side can throw one of the same kind. */
export interface ErrorMessage {
  name: string;
  message: string;
  /** Of an `InvalidRequestError`. */
  param?: string | null;
}

export interface ReadyInfo {
  adapter: string;
  maxModelLen: number;
  isPrefixLm: boolean;
  /** Most answers that can run at once. */
  maxSequences: number;
}

export type FromEngine =
  | { type: "progress"; stage: LoadStage; done: number; all: number; note?: string }
  | { type: "ready"; info: ReadyInfo }
  | ({ id: string } & CoreEvent)
  | { type: "failed"; id: string; error: ErrorMessage }
  | { type: "profile"; rows: KernelProfile[] }
  | { type: "stats"; stats: EngineStats }
  | { type: "closed" }
  /** The engine as a whole cannot go on. */
  | { type: "dead"; error: ErrorMessage };

export function errorMessage(error: unknown): ErrorMessage {
  if (error instanceof InvalidRequestError)
    return { name: error.name, message: error.message, param: error.param };
  return error instanceof Error
    ? { name: error.name, message: error.message }
    : { name: "Error", message: String(error) };
}
