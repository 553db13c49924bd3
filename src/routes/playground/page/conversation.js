/** The conversation as it is shown: turns, their text as it comes, and a place to read that does not jump. */
import { byId, make } from "./dom.js";
import { showTokensOf, toPieces, toSpan } from "./tokens.js";

/** @typedef {import("./tokens.js").Token} Token */

/** How near the end, in pixels, still counts as being there. */
const nearEnd = 24;

const box = byId("conversation", HTMLElement);
const turns = byId("turns", HTMLElement);
const welcome = byId("welcome", HTMLElement);
const newest = byId("newest", HTMLButtonElement);
const spoken = byId("spoken", HTMLElement);

/** Whether the reader is at the end, and stays there as text comes. */
let isFollowing = true;
let lastTop = 0;

box.addEventListener("scroll", () => {
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < nearEnd;
  if (atEnd) isFollowing = true;
  else if (box.scrollTop < lastTop) isFollowing = false;
  lastTop = box.scrollTop;
  newest.hidden = isFollowing;
});
newest.addEventListener("click", () => {
  follow();
  box.focus();
});
showTokensOf(box);

function follow() {
  isFollowing = true;
  newest.hidden = true;
  box.scrollTop = box.scrollHeight;
}

function settle() {
  if (isFollowing) box.scrollTop = box.scrollHeight;
}

export function clearTurns() {
  turns.replaceChildren();
  spoken.replaceChildren();
  welcome.hidden = false;
  follow();
}

/** @param {string} text */
export function addQuestion(text) {
  welcome.hidden = true;
  const turn = make("li", "question");
  turn.append(make("h3", "", "You"), make("p", "text", text));
  turns.append(turn);
  follow();
}

/** An answer that is being written. */
export class Answer {
  text = "";
  #turn = make("li", "answer");
  #words = make("p", "text");
  #figures = make("p", "figures", "…");
  /** @type {HTMLElement | null} */
  #thoughts = null;
  /** Tokens whose text is still to come. @type {Token[]} */
  #tokens = [];
  /** Text that has not been spoken: a sentence is, when it is whole. */
  #unspoken = "";

  /** @param {string} name */
  constructor(name) {
    this.#words.tabIndex = 0;
    this.#turn.setAttribute("aria-busy", "true");
    this.#turn.append(make("h3", "", name), this.#words, this.#figures);
    turns.append(this.#turn);
    spoken.replaceChildren();
    follow();
  }

  /**
   * @param {string} text
   * @param {readonly Token[]} tokens
   */
  add(text, tokens) {
    this.#tokens.push(...tokens);
    this.text += text;
    this.#words.append(...toPieces(text, this.#tokens).map(toSpan));
    this.#speak(text);
    settle();
  }

  /** @param {string} text */
  addThought(text) {
    this.#thoughts ??= this.#openThoughts();
    this.#thoughts.append(text);
    settle();
  }

  /** @param {string} figures */
  finish(figures) {
    this.#end();
    this.#figures.textContent = figures;
    settle();
  }

  /** @param {string} message */
  fail(message) {
    this.#end();
    this.#figures.remove();
    if (this.text === "") this.#words.remove();
    const failure = make("p", "failure", message);
    failure.setAttribute("role", "alert");
    this.#turn.append(failure);
    settle();
  }

  #end() {
    this.#turn.removeAttribute("aria-busy");
    if (this.#unspoken !== "") spoken.append(make("p", "", this.#unspoken));
    this.#unspoken = "";
  }

  #openThoughts() {
    const details = make("details", "thoughts");
    const text = make("p");
    details.open = true;
    details.append(make("summary", "", "Thoughts"), text);
    this.#words.before(details);
    return text;
  }

  /** @param {string} text */
  #speak(text) {
    const sentences = (this.#unspoken + text).split(/(?<=[.!?。！？]\s|\n)/);
    this.#unspoken = sentences.pop() ?? "";
    spoken.append(...sentences.map((sentence) => make("p", "", sentence)));
  }
}
