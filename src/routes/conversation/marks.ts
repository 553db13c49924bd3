/** Marks (`<think>`, `<tool_call>`) in text that comes in pieces. */

/** How much of the end of `text` may be the beginning of `mark`, in characters. */
export function partialMarkLength(text: string, mark: string): number {
  for (let length = Math.min(text.length, mark.length - 1); length > 0; length--) {
    if (text.endsWith(mark.slice(0, length))) return length;
  }
  return 0;
}
