/**
 * The engine's timeline as a file (`--trace`): a JSON array of Chrome trace events, written step by step. A file whose
 * engine crashed lacks the closing bracket only, which the viewers do not need.
 */
import { Buffer } from "node:buffer";
import { closeSync, openSync, writeFileSync } from "node:fs";
import { SetupError } from "../errors.ts";
import { TRACE_FILE_BYTES_MAX } from "../limits.ts";
import { TraceFormatter, type TraceStep } from "./trace-events.ts";

/** Where the text goes. */
export interface TraceSink {
  write(text: string): void;
  close(): void;
}

export interface TraceWriterOptions {
  /** Told once if the trace ends early: the file is full, or cannot be written any more. */
  warn: (message: string) => void;
  bytesMax?: number;
}

/** Writes steps as they are done. A trace that cannot go on ends with a warning: it never stops the engine. */
export class TraceWriter {
  readonly #sink: TraceSink;
  readonly #warn: (message: string) => void;
  readonly #bytesMax: number;
  readonly #formatter = new TraceFormatter();
  #bytes = 0;
  #isOpen = true;

  constructor(sink: TraceSink, { warn, bytesMax = TRACE_FILE_BYTES_MAX }: TraceWriterOptions) {
    this.#sink = sink;
    this.#warn = warn;
    this.#bytesMax = bytesMax;
  }

  /** To be called once a step, in the order in which the device runs them, when its results are there. */
  step(step: TraceStep): void {
    if (!this.#isOpen) return;
    const events = this.#formatter.events(step).map((event) => JSON.stringify(event));
    const text = `${this.#bytes === 0 ? "[\n" : ",\n"}${events.join(",\n")}`;
    const bytes = Buffer.byteLength(text);
    if (this.#bytes + bytes > this.#bytesMax) {
      this.#warn(`The trace ends at step ${step.index}: it has reached its ${this.#bytesMax} bytes`);
      this.close();
      return;
    }
    this.#bytes += bytes;
    this.#attempt(() => this.#sink.write(text));
  }

  /** Ends the array and the file; further steps are dropped. */
  close(): void {
    if (!this.#isOpen) return;
    this.#attempt(() => this.#sink.write(this.#bytes === 0 ? "[]\n" : "\n]\n"));
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#attempt(() => this.#sink.close());
  }

  #attempt(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#isOpen = false;
      this.#warn(`The trace ends: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}

/** A trace in a new file at `path`, or in place of the one there. Throws `SetupError` if it cannot be made. */
export function openTrace(path: string, options: TraceWriterOptions): TraceWriter {
  return new TraceWriter(fileSink(path), options);
}

/** Each write reaches the operating system before it returns, so that it outlives a crash of this process. */
function fileSink(path: string): TraceSink {
  try {
    const file = openSync(path, "w");
    return { write: (text) => writeFileSync(file, text), close: () => closeSync(file) };
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    throw new SetupError(`Cannot write a trace: expected a file to create at ${path}, got ${found}`, {
      cause: error,
    });
  }
}
