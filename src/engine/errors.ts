/**
 * Errors that can happen in service, as opposed to our own bugs, which are plain `Error`s from asserts.
 * `src/routes/errors.ts` maps each to an HTTP status. Messages read "Cannot <action>: <expected>, got <found>".
 */

/** The request can never succeed as it is. `param` names the field at fault. */
export class InvalidRequestError extends Error {
  override name = "InvalidRequestError";
  readonly param: string | null;
  constructor(message: string, param: string | null = null) {
    super(message);
    this.param = param;
  }
}

/** Prompt and answer do not fit the model's context. */
export class ContextLengthError extends InvalidRequestError {
  override name = "ContextLengthError";
}

/** The queue has no room; the client may try again after `retryAfterSeconds`. */
export class QueueFullError extends Error {
  override name = "QueueFullError";
  readonly retryAfterSeconds: number;
  constructor(message: string, retryAfterSeconds: number) {
    super(message);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** The request has not finished by its deadline. */
export class DeadlineError extends Error {
  override name = "DeadlineError";
}

/** The client does not read its answer; what it holds is given to others. */
export class SlowReaderError extends Error {
  override name = "SlowReaderError";
}

/** The engine thread or its device is gone; nothing more can be generated. */
export class EngineDeadError extends Error {
  override name = "EngineDeadError";
}

/** A checkpoint folder is damaged, incomplete, or of a kind that is not supported. */
export class CheckpointError extends Error {
  override name = "CheckpointError";
}

export { SetupError } from "../errors.ts";
