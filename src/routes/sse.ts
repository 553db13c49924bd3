/** Server-sent events: objects to frames, pings on silence, and a byte stream that says when nobody listens. */
import { PING_INTERVAL_MS } from "../limits.ts";
import { toErrorAnswer } from "./errors.ts";

/** Calls `callback` once after `delayMs` unless the function returned is called first. */
export type StartTimer = (delayMs: number, callback: () => void) => () => void;

/** How an API writes its streams. */
export interface SseFormat {
  frame(object: object): string;
  /** Fills a silence. */
  ping: string;
  /** After the last frame. */
  end: string;
  /** What the client is told of an error that ends its stream. */
  failure(error: unknown): object[];
}

/** OpenAI's older streams: nothing but data, and a mark at the end. */
export const dataEvents: SseFormat = {
  frame: (object) => `data: ${JSON.stringify(object)}\n\n`,
  ping: ": ping\n\n",
  end: "data: [DONE]\n\n",
  failure: (error) => [toErrorAnswer(error).body],
};

/** Named by the `type` of its data. */
export function namedFrame(object: object): string {
  return `event: ${(object as { type: string }).type}\n${dataEvents.frame(object)}`;
}

export interface SseOptions {
  format: SseFormat;
  startTimer: StartTimer;
  /** The reader is gone: whatever feeds the stream should stop. */
  onCancel: () => void;
  /** The objects ended in this error, which the client is told of in the stream. */
  onError: (error: unknown) => void;
}

/** A body that sends each object as an event as soon as it comes, and the format's end after the last or after an error. */
export function sseBody(objects: AsyncIterable<object>, options: SseOptions): ReadableStream<Uint8Array> {
  const frames = withPings(toFrames(objects, options), options);
  const encoder = new TextEncoder();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const frame = await frames.next();
      if (frame.done) controller.close();
      else controller.enqueue(encoder.encode(frame.value));
    },
    async cancel() {
      options.onCancel();
      await frames.return();
    },
  });
}

async function* toFrames(
  objects: AsyncIterable<object>,
  { format, onError }: SseOptions,
): AsyncGenerator<string, void, void> {
  try {
    for await (const object of objects) yield format.frame(object);
  } catch (error) {
    onError(error);
    for (const object of format.failure(error)) yield format.frame(object);
  }
  if (format.end !== "") yield format.end;
}

/** The frames, with a ping for every `PING_INTERVAL_MS` in which none came. */
async function* withPings(
  frames: AsyncGenerator<string, void, void>,
  { format, startTimer }: SseOptions,
): AsyncGenerator<string, void, void> {
  try {
    let pending = frames.next();
    for (;;) {
      const frame = await orSilence(pending, startTimer);
      if (frame === null) {
        yield format.ping;
        continue;
      }
      if (frame.done) return;
      yield frame.value;
      pending = frames.next();
    }
  } finally {
    await frames.return();
  }
}

/** What `pending` resolves to, or null if that takes longer than the ping interval. */
async function orSilence<T>(pending: Promise<T>, startTimer: StartTimer): Promise<T | null> {
  const silence = Promise.withResolvers<null>();
  const stopTimer = startTimer(PING_INTERVAL_MS, () => silence.resolve(null));
  try {
    return await Promise.race([pending, silence.promise]);
  } finally {
    stopTimer();
  }
}
