/** Asking and answering: one request at a time, which can be stopped. The conversation is kept in memory only. */
import { addQuestion, Answer, clearTurns } from "./conversation.js";
import { byId } from "./dom.js";
import { path, toBody, toCurl } from "./request.js";
import { ask, eventsOf, Failure } from "./server.js";

/**
 * @typedef {import("./request.js").Message} Message
 * @typedef {import("./tokens.js").Token} Token
 * @typedef {{ prompt_tokens: number, completion_tokens: number }} Usage
 * @typedef {object} Choice
 * @property {{ content?: string | null, reasoning_content?: string }} delta
 * @property {{ content: Token[] } | null} logprobs
 * @property {string | null} finish_reason
 * @typedef {{ choices: Choice[], usage?: Usage | null }} Chunk
 */

const form = byId("ask", HTMLFormElement);
const question = byId("question", HTMLTextAreaElement);
const send = byId("send", HTMLButtonElement);
const stop = byId("stop", HTMLButtonElement);
const sampling = byId("sampling", HTMLFormElement);

/** @type {Message[]} */
let messages = [];
/** @type {AbortController | null} */
let underWay = null;

/**
 * @typedef {object} Page
 * @property {() => string} modelName
 * @property {() => void} onRefusedKey
 * @property {() => void} onChange The next request is another one.
 */

/** @param {Page} page */
export function startChat(page) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!underWay && sampling.reportValidity()) void answer(question.value, page);
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stop.addEventListener("click", () => underWay?.abort());
  addEventListener("keydown", ({ key }) => {
    if (key === "Escape") underWay?.abort();
  });
  byId("clear", HTMLButtonElement).addEventListener("click", () => {
    underWay?.abort();
    messages = [];
    clearTurns();
    question.focus();
    page.onChange();
  });
  for (const element of [form, sampling]) element.addEventListener("input", page.onChange);
  sampling.addEventListener("reset", () => setTimeout(page.onChange));
  sampling.addEventListener("submit", (event) => event.preventDefault());
}

/** The request that would be sent now, as a command. */
export function nextCurl() {
  const content = question.value === "" ? question.placeholder : question.value;
  return toCurl(toBody(sampling, [...messages, { role: "user", content }]));
}

/**
 * @param {string} text
 * @param {Page} page
 */
async function answer(text, { modelName, onRefusedKey, onChange }) {
  const before = messages;
  /** @type {Message[]} */
  const asked = [...before, { role: "user", content: text }];
  const stopping = new AbortController();
  setUnderWay(stopping);
  addQuestion(text);
  question.value = "";
  const shown = new Answer(modelName());
  try {
    shown.finish(await stream(asked, shown, stopping.signal));
  } catch (error) {
    if (stopping.signal.aborted) shown.finish("Stopped.");
    else shown.fail(error instanceof Error ? error.message : String(error));
    if (error instanceof Failure && error.status === 401) onRefusedKey();
  }
  // A new chat knows nothing of this one; what was not answered can be asked again.
  if (messages === before && shown.text !== "") {
    messages = [...asked, { role: "assistant", content: shown.text }];
  } else if (messages === before && question.value === "") question.value = text;
  setUnderWay(null);
  onChange();
}

/** @param {AbortController | null} stopping */
function setUnderWay(stopping) {
  // A button that is disabled loses the focus to nowhere.
  const hadFocus = document.activeElement === stop || document.activeElement === send;
  underWay = stopping;
  send.disabled = stopping !== null;
  stop.disabled = stopping === null;
  if (hadFocus) question.focus();
}

/**
 * Resolves to the figures of the answer.
 *
 * @param {readonly Message[]} asked
 * @param {Answer} shown
 * @param {AbortSignal} signal
 */
async function stream(asked, shown, signal) {
  const startMs = performance.now();
  let firstMs = startMs;
  let reason = "";
  /** @type {Usage} */
  let usage = { prompt_tokens: 0, completion_tokens: 0 };
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify(toBody(sampling, asked));
  /** @type {AsyncIterable<Chunk>} */
  const chunks = eventsOf(await ask(path, { method: "POST", headers, body, signal }));
  for await (const chunk of chunks) {
    usage = chunk.usage ?? usage;
    const [choice] = chunk.choices;
    // The last chunk has the usage only.
    if (!choice) continue;
    if (show(choice, shown) && firstMs === startMs) firstMs = performance.now();
    reason = choice.finish_reason ?? reason;
  }
  return figures(usage, reason, { firstMs: firstMs - startMs, wholeMs: performance.now() - startMs });
}

/**
 * True if there was anything to show.
 *
 * @param {Choice} choice
 * @param {Answer} shown
 */
function show({ delta, logprobs }, shown) {
  const { content, reasoning_content: thought } = delta;
  if (thought) shown.addThought(thought);
  else shown.add(content ?? "", logprobs?.content ?? []);
  return Boolean(thought || content);
}

/**
 * @param {Usage} usage
 * @param {string} reason
 * @param {{ firstMs: number, wholeMs: number }} times
 */
function figures({ prompt_tokens: prompt, completion_tokens: completion }, reason, { firstMs, wholeMs }) {
  const why = reason === "length" ? "cut at the most tokens" : "ended by itself";
  const rate = ((completion - 1) / (wholeMs - firstMs)) * 1000;
  const speed = completion > 1 && Number.isFinite(rate) ? `, ${rate.toFixed(0)} tokens/s` : "";
  return `${prompt} + ${completion} tokens, the first after ${firstMs.toFixed(0)} ms${speed}; ${why}`;
}
