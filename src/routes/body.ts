/** The body of a request: its content type, its size, its encoding, and at last its JSON. */
import { InvalidRequestError } from "../engine/errors.ts";
import { REQUEST_BODY_BYTES_MAX, REQUEST_BODY_MS_MAX } from "../limits.ts";
import { describe, HttpError } from "./errors.ts";
import { parseJson } from "./json.ts";
import type { StartTimer } from "./sse.ts";

const JSON_CONTENT_TYPE = /^application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;

/** The JSON value of a request's body. Throws `InvalidRequestError`, or an `HttpError`: 413 over the size limit, 408 after the deadline. */
export async function readJson(request: Request, startTimer: StartTimer): Promise<unknown> {
  const contentType = request.headers.get("content-type") ?? undefined;
  if (!contentType || !JSON_CONTENT_TYPE.test(contentType)) {
    throw refusal(`expected content-type application/json, got ${describe(contentType)}`);
  }
  return parseJson(decodeUtf8(await readBytes(request, startTimer)));
}

/** Counts while reading, since a chunked body does not say its length, or may lie about it. */
async function readBytes(request: Request, startTimer: StartTimer): Promise<Uint8Array> {
  if (Number(request.headers.get("content-length")) > REQUEST_BODY_BYTES_MAX) throw tooLarge();
  const chunks: Uint8Array[] = [];
  let byteCount = 0;
  for await (const chunk of incoming(request, startTimer)) {
    byteCount += chunk.byteLength;
    if (byteCount > REQUEST_BODY_BYTES_MAX) throw tooLarge();
    chunks.push(chunk);
  }
  return concat(chunks, byteCount);
}

/** The body's chunks, until its deadline. A broken transfer is the client's fault, not a failure of ours. */
async function* incoming({ body }: Request, startTimer: StartTimer): AsyncGenerator<Uint8Array> {
  if (!body) return;
  const reader = body.getReader();
  const late = Promise.withResolvers<null>();
  const stopTimer = startTimer(REQUEST_BODY_MS_MAX, () => late.resolve(null));
  try {
    for (;;) {
      const chunk = await Promise.race([reader.read().catch(brokenTransfer), late.promise]);
      if (chunk === null) throw tooSlow();
      if (chunk.done) return;
      yield chunk.value;
    }
  } finally {
    stopTimer();
    // Of a body that was read to its end nothing happens; the rest of another is not waited for.
    reader.cancel().catch(() => {});
  }
}

function brokenTransfer(): never {
  throw refusal("expected a complete body, got a broken transfer");
}

function concat(chunks: readonly Uint8Array[], byteCount: number): Uint8Array {
  const bytes = new Uint8Array(byteCount);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return bytes;
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw refusal("expected UTF-8, got bytes that are not");
  }
}

function refusal(reason: string): InvalidRequestError {
  return new InvalidRequestError(`Cannot read the request body: ${reason}`);
}

/** The rest of the body would come in the way of the next request: the connection ends with the answer. */
function tooSlow(): HttpError {
  const message = `Cannot read the request body: expected all of it within ${REQUEST_BODY_MS_MAX / 1000} s, got a part`;
  return new HttpError(408, message, { code: "request_timeout", headers: { connection: "close" } });
}

function tooLarge(): HttpError {
  const message = `Cannot read the request body: expected at most ${REQUEST_BODY_BYTES_MAX} bytes, got more`;
  return new HttpError(413, message, { code: "request_too_large" });
}
