/** Calls back after a delay unless the result is called before. */
export type StartTimer = (delayMs: number, callback: () => void) => () => void;

export function startRuntimeTimer(delayMs: number, callback: () => void): () => void {
  const timer = setTimeout(callback, delayMs);
  return () => clearTimeout(timer);
}
