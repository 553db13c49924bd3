/** What a command is given of the world, so that it can be run in a test. */
export interface Environment {
  /** Milliseconds since the epoch. */
  clock: () => number;
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
