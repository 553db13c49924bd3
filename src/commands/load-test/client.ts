/** One request of a load: sent, read to its end, and timed. */
import type { IncomingMessage } from "node:http";
import { AnswerMeter, type AnswerSize, type AnswerTimes, type StreamChunk } from "./answer-meter.ts";
import { open, readText } from "./http.ts";
import { describeErrorText, describeRefusal } from "./refusal.ts";
import { SseDecoder } from "./sse.ts";
import type { Prompt } from "./workload.ts";

export type Outcome =
  | (AnswerTimes & AnswerSize & { type: "completed"; sentMs: number; promptTokens: number })
  | { type: "failed"; sentMs: number; error: string }
  /** We ended it ourselves. */
  | { type: "cancelled"; sentMs: number };

export type Endpoint = "chat" | "completions";

export interface BodyOptions {
  endpoint: Endpoint;
  model: string;
  /** Left out: the server's default. */
  temperature?: number;
  ignoreEos: boolean;
}

/** A request ready to go, so that nothing but sending it takes time under load. */
export interface LoadRequest {
  /** JSON. */
  body: string;
  /** For a server that does not say how many it read. */
  promptTokens: number;
}

/** `max_tokens` is the one name for the length of an answer that every server takes on both endpoints. */
export function toLoadRequest(
  { content, promptTokens, outputTokens }: Prompt,
  options: BodyOptions,
): LoadRequest {
  const { endpoint, model, temperature, ignoreEos } = options;
  const body = JSON.stringify({
    model,
    ...(endpoint === "chat" ? { messages: [{ role: "user", content }] } : { prompt: content }),
    max_tokens: outputTokens,
    temperature,
    ...(ignoreEos ? { ignore_eos: true } : {}),
    stream: true,
    stream_options: { include_usage: true },
  });
  return { body, promptTokens };
}

interface SendOptions {
  url: URL;
  /** Milliseconds. */
  now: () => number;
  signal: AbortSignal;
}

/** Sends a streaming request and reads its answer. Never rejects: what goes wrong is the outcome. */
export async function send(
  { body, promptTokens }: LoadRequest,
  { url, now, signal }: SendOptions,
): Promise<Outcome> {
  const sentMs = now();
  try {
    const message = await open(url, { body, signal });
    const meter = new AnswerMeter(sentMs);
    await readAnswer(message, meter, now);
    const times = meter.times();
    if (!times) throw new Error("the answer has no choices");
    const size = meter.size();
    return {
      type: "completed",
      sentMs,
      ...times,
      ...size,
      promptTokens: size.promptTokens ?? promptTokens,
    };
  } catch (error) {
    if (signal.aborted) return { type: "cancelled", sentMs };
    return { type: "failed", sentMs, error: error instanceof Error ? error.message : String(error) };
  }
}

/** Enough of an error's text for its reason. */
const errorCharsMax = 16 * 1024;

async function readAnswer(message: IncomingMessage, meter: AnswerMeter, now: () => number): Promise<void> {
  if (message.statusCode !== 200) {
    const reason = describeErrorText(await readText(message, errorCharsMax));
    throw new Error(`HTTP ${message.statusCode}: ${reason}`);
  }
  const decoder = new SseDecoder();
  let isDone = false;
  const takeAll = (events: readonly string[], nowMs: number): void => {
    for (const event of events) {
      if (event === "[DONE]") isDone = true;
      else takeEvent(event, meter, nowMs);
    }
  };
  for await (const bytes of message as AsyncIterable<Uint8Array>) takeAll(decoder.push(bytes), now());
  takeAll(decoder.end(), now());
  if (!isDone && !meter.isFinished) throw new Error("the stream ended before its answer did");
}

function takeEvent(event: string, meter: AnswerMeter, nowMs: number): void {
  const chunk = JSON.parse(event) as StreamChunk & { error?: unknown };
  if (chunk.error) throw new Error(`in mid-stream: ${describeRefusal(chunk)}`);
  meter.take(chunk, nowMs);
}
