/** What a command is given of the world, so that it can be run in a test. */
export interface Environment {
  /** Milliseconds since the epoch, with fractions; it never goes back. */
  clock: () => number;
  /** Resolves after the delay, or as soon as the signal is aborted. */
  sleep: (delayMs: number, signal: AbortSignal) => Promise<void>;
  newId: () => string;
  /** 64 random bits. */
  randomSeed: () => bigint;
  /** To standard output. */
  write: (text: string) => void;
  /** A line for people, to standard error. */
  report: (line: string) => void;
  /** Whether standard error is a terminal, where progress may be redrawn. */
  isInteractive: boolean;
  /** Calls back when the process is asked to stop. */
  onStop: (stop: () => void) => void;
}
