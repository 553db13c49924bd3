/** Asking this server: the API key, streams of events, and failures in words that say what to do. */

/** @typedef {{ error?: { message: string } }} ErrorBody */

/** Forgotten with the page. */
let key = "";

/** @param {string} given */
export function useKey(given) {
  key = given;
}

export function hasKey() {
  return key !== "";
}

/** What went wrong; `message` says what to do about it too. */
export class Failure extends Error {
  /**
   * @param {string} message
   * @param {number} [status] 0 if there was no answer at all
   */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/**
 * A good response. Throws `Failure`, or what `signal` was aborted with.
 *
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>}
 */
export async function ask(path, init = {}) {
  const headers = new Headers(init.headers);
  if (hasKey()) headers.set("authorization", `Bearer ${key}`);
  const response = await fetch(path, { ...init, headers }).catch((error) => {
    init.signal?.throwIfAborted();
    throw new Failure(
      `Cannot reach ${location.origin} (${String(error)}). See whether the server runs, then try again.`,
    );
  });
  if (!response.ok) throw await failureOf(response);
  return response;
}

/** @param {Response} response */
async function failureOf(response) {
  const body = /** @type {ErrorBody | null} */ (await response.json().catch(() => null));
  const message = body?.error?.message ?? `The server answered ${response.status}`;
  return new Failure(`${message}. ${adviceFor(response)}`, response.status);
}

/** @param {Response} response */
function adviceFor({ status, headers }) {
  const seconds = headers.get("retry-after");
  if (status === 401) return "Enter an API key of this server, then try again.";
  if (seconds !== null) return `Try again in ${seconds} s.`;
  if (status === 408) return "Try again, perhaps with fewer tokens.";
  if (status < 500) return "Change the message or the settings, then try again.";
  return "The server's log says more.";
}

/**
 * The objects of a stream, up to its `[DONE]`. Throws `Failure` for an error that the stream tells of, or if it breaks.
 *
 * @template T
 * @param {Response} response
 * @returns {AsyncGenerator<T, void, void>}
 */
export async function* eventsOf(response) {
  let text = "";
  for await (const piece of textOf(response)) {
    const frames = (text + piece).split("\n\n");
    text = frames.pop() ?? "";
    for (const frame of frames) {
      if (!frame.startsWith("data: ")) continue;
      if (frame === "data: [DONE]") return;
      const event = /** @type {Awaited<T> & ErrorBody} */ (JSON.parse(frame.slice("data: ".length)));
      if (event.error) throw new Failure(`${event.error.message}. The answer ends here; try again.`);
      yield event;
    }
  }
  throw new Failure("The server broke off. See whether it still runs, then try again.");
}

/**
 * @param {Response} response
 * @returns {AsyncGenerator<string, void, void>}
 */
async function* textOf({ body }) {
  if (!body) return;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Failure(
      `The connection broke (${String(error)}). See whether the server still runs, then try again.`,
    );
  } finally {
    await reader.cancel().catch(() => {});
  }
}
