/**
 * Plain HTTP to this machine. Not `fetch`: Bun's keeps more than 256 requests waiting inside the client, which a
 * load test would count as the server's time; and both runtimes' follow redirects and proxies, off this machine.
 */
import { Buffer } from "node:buffer";
import { type IncomingMessage, request } from "node:http";

export interface HttpOptions {
  /** Given: a POST of this JSON text. */
  body?: string;
  signal?: AbortSignal;
}

/** Resolves with the head of an answer; its body is to be iterated. Rejects when there is none. */
export function open(url: URL, { body, signal }: HttpOptions = {}): Promise<IncomingMessage> {
  const headers =
    body === undefined
      ? {}
      : { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    // A connection each: one kept alive may be closed by the server just as the next request goes out on it.
    const outgoing = request(
      url,
      { method: body === undefined ? "GET" : "POST", headers, agent: false, signal },
      resolve,
    );
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

/** The text of a body, of which no more than `charsMax` are kept. */
export async function readText(message: IncomingMessage, charsMax: number): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of message as AsyncIterable<Uint8Array>) {
    if (text.length < charsMax) text += decoder.decode(bytes, { stream: true });
  }
  return text.slice(0, charsMax);
}
