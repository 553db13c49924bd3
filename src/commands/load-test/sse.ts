/** Server-sent events as a client reads them: comments, CRLF and `data:` without a space included. */

/** Splits a byte stream, fed in any pieces, into the data of its events. */
export class SseDecoder {
  readonly #decoder = new TextDecoder();
  #rest = "";
  #data: string[] = [];

  /** The data of the events that these bytes complete. */
  push(bytes: Uint8Array): string[] {
    const lines = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split("\n");
    this.#rest = lines.pop() ?? "";
    return lines.flatMap((line) => this.#takeLine(line.endsWith("\r") ? line.slice(0, -1) : line));
  }

  /** What is left at the end of the stream: the last event of a server that does not end it with an empty line. */
  end(): string[] {
    return [...this.#takeLine(this.#rest.trimEnd()), ...this.#takeLine("")];
  }

  #takeLine(line: string): string[] {
    if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    if (line !== "" || this.#data.length === 0) return [];
    const event = this.#data.join("\n");
    this.#data = [];
    return [event];
  }
}
