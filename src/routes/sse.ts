/** Server-sent events: objects to frames, comments on silence, and a byte stream that says when nobody listens. */
import { PING_INTERVAL_MS } from "../limits.ts";
import { toErrorAnswer } from "./errors.ts";

/** Calls `callback` once after `delayMs` unless the function returned is called first. */
export type StartTimer = (delayMs: number, callback: () => void) => () => void;

export interface SseOptions {
  startTimer: StartTimer;
  /** The reader is gone: whatever feeds the stream should stop. */
  onCancel: () => void;
  /** The objects ended in this error, which the client is told of in the stream. */
  onError: (error: unknown) => void;
}

const PING = ": ping\n\n";

/** A body that sends each object as an event as soon as it comes, and `[DONE]` after the last or after an error. */
export function sseBody(objects: AsyncIterable<object>, options: SseOptions): ReadableStream<Uint8Array> {
  const frames = withPings(toFrames(objects, options.onError), options.startTimer);
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
  onError: (error: unknown) => void,
): AsyncGenerator<string, void, void> {
  try {
    for await (const object of objects) yield toFrame(object);
  } catch (error) {
    onError(error);
    yield toFrame(toErrorAnswer(error).body);
  }
  yield "data: [DONE]\n\n";
}

function toFrame(object: object): string {
  return `data: ${JSON.stringify(object)}\n\n`;
}

/** The frames, with a comment for every `PING_INTERVAL_MS` in which none came. */
async function* withPings(
  frames: AsyncGenerator<string, void, void>,
  startTimer: StartTimer,
): AsyncGenerator<string, void, void> {
  try {
    let pending = frames.next();
    for (;;) {
      const frame = await orSilence(pending, startTimer);
      if (frame === null) {
        yield PING;
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
