/** What the settings and a conversation make of a request, and the same as a command. */
import { hasKey } from "./server.js";

export const path = "/v1/chat/completions";

/** How many alternatives of each token are asked for. */
const alternatives = 5;

/**
 * @typedef {{ role: "system" | "user" | "assistant", content: string }} Message
 * @typedef {{ system: string, stop: string, logprobs?: string }} Fields
 */

/**
 * The body of a request. The form's numbers have the API's own names; empty ones are left out.
 *
 * @param {HTMLFormElement} form
 * @param {readonly Message[]} messages
 * @returns {Record<string, unknown>}
 */
export function toBody(form, messages) {
  const { system, stop: lines, logprobs } = /** @type {Fields} */ (Object.fromEntries(new FormData(form)));
  const stop = lines.split("\n").filter((line) => line !== "");
  const numbers = [...form.querySelectorAll("input")].filter(
    ({ type, value }) => type === "number" && value !== "",
  );
  return {
    messages: system === "" ? messages : [{ role: "system", content: system }, ...messages],
    ...Object.fromEntries(numbers.map(({ name, valueAsNumber }) => [name, valueAsNumber])),
    ...(stop.length > 0 && { stop }),
    ...(logprobs && { logprobs: true, top_logprobs: alternatives }),
    stream: true,
    stream_options: { include_usage: true },
  };
}

/**
 * A command for a shell. A key is a variable's to hold, not the screen's.
 *
 * @param {Record<string, unknown>} body
 */
export function toCurl(body) {
  const quoted = JSON.stringify(body).replaceAll("'", String.raw`'\''`);
  return [
    `curl -N ${location.origin}${path}`,
    `-H 'content-type: application/json'`,
    ...(hasKey() ? [`-H "authorization: Bearer $PRELUDE_API_KEY"`] : []),
    `-d '${quoted}'`,
  ].join(" \\\n  ");
}
