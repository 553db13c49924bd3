/** The tokens of an answer, and how likely each was. */
import { byId, make } from "./dom.js";

/**
 * @typedef {{ token: string, logprob: number }} Likely
 * @typedef {Likely & { top_logprobs: Likely[] }} Token
 * @typedef {{ text: string, tokens: Token[] }} Piece
 */

/**
 * Cuts `text` at its tokens, which are taken from `tokens`. Several share a piece where they make one character.
 *
 * @param {string} text
 * @param {Token[]} tokens
 * @returns {Piece[]}
 */
export function toPieces(text, tokens) {
  /** @type {Piece[]} */
  const pieces = [];
  let rest = text;
  while (rest !== "") {
    const { count, length } = nextPiece(rest, tokens);
    pieces.push({ text: rest.slice(0, length), tokens: tokens.splice(0, count) });
    rest = rest.slice(length);
  }
  return pieces;
}

/**
 * The first token if the text begins with it, else all before the next one that can be found.
 *
 * @param {string} text
 * @param {readonly Token[]} tokens
 */
function nextPiece(text, tokens) {
  const startOf = ({ token = "" } = {}, from = 0) => (isPart(token) ? -1 : text.indexOf(token, from));
  if (startOf(tokens[0]) === 0) return { count: 1, length: tokens[0].token.length };
  for (let count = 1; count < tokens.length; count++) {
    const length = startOf(tokens[count], 1);
    if (length > 0) return { count, length };
  }
  return { count: tokens.length, length: text.length };
}

/**
 * Special tokens have no text, and parts of a character none of their own.
 *
 * @param {string} token
 */
function isPart(token) {
  return token === "" || token.includes("\ufffd");
}

/** @type {WeakMap<Element, Token[]>} */
const tokensOf = new WeakMap();

/**
 * @param {Piece} piece
 * @returns {HTMLSpanElement}
 */
export function toSpan({ text, tokens }) {
  if (tokens.length === 0) return make("span", "", text);
  const likelihood = Math.exp(tokens.reduce((sum, { logprob }) => sum + logprob, 0));
  const doubt = likelihood < 0.2 ? " doubtful" : likelihood < 0.6 ? " unsure" : "";
  const span = make("span", `token${doubt}`, text);
  tokensOf.set(span, tokens);
  return span;
}

/**
 * Shows the token that is pointed at, or that the arrow keys have come to, in a box that moves nothing.
 *
 * @param {HTMLElement} root
 */
export function showTokensOf(root) {
  const box = byId("token", HTMLElement);
  /** @type {Element | null} */
  let shown = null;
  /** @param {Element | null} span */
  const show = (span) => {
    if (span === shown) return;
    shown?.classList.remove("current");
    shown = span;
    const tokens = span && tokensOf.get(span);
    box.hidden = !tokens;
    if (!span || !tokens) return;
    span.classList.add("current");
    box.replaceChildren(...tokens.map(toTable));
    place(box, span.getClientRects()[0]);
  };
  root.addEventListener("pointerdown", ({ target }) => show(tokenAt(target)));
  root.addEventListener("pointermove", ({ target, movementX, movementY }) => {
    // Text that scrolls below a pointer at rest is not pointed at.
    if (movementX !== 0 || movementY !== 0) show(tokenAt(target));
  });
  root.addEventListener("pointerleave", () => show(null));
  root.addEventListener("focusout", () => show(null));
  root.addEventListener("scroll", () => {
    if (shown) place(box, shown.getClientRects()[0]);
  });
  root.addEventListener("keydown", (event) => {
    if (!(event.target instanceof Element && event.target.matches(".text"))) return;
    const next = event.key === "Escape" ? null : neighbour(event.target, shown, event.key);
    if (next === undefined) return;
    event.preventDefault();
    // Escape closes the box before it stops an answer.
    if (next === null && shown) event.stopPropagation();
    next?.scrollIntoView({ block: "nearest" });
    show(next);
  });
}

/** @param {EventTarget | null} target */
function tokenAt(target) {
  return target instanceof Element ? target.closest(".token") : null;
}

/**
 * The token that a key leads to; undefined if it leads nowhere.
 *
 * @param {Element} text
 * @param {Element | null} from
 * @param {string} key
 * @returns {Element | undefined}
 */
function neighbour(text, from, key) {
  const spans = [...text.querySelectorAll(".token")];
  const at = from ? spans.indexOf(from) : -1;
  switch (key) {
    case "ArrowRight":
      return spans[Math.min(at + 1, spans.length - 1)];
    case "ArrowLeft":
      return spans[Math.max(at - 1, 0)];
    case "Home":
      return spans[0];
    case "End":
      return spans.at(-1);
    default:
      return undefined;
  }
}

/** @param {Token} token */
function toTable({ token, logprob, top_logprobs: top }) {
  const table = make("table");
  table.append(make("caption", "", `${quote(token)}: ${percent(logprob)}, logprob ${logprob.toFixed(3)}`));
  for (const likely of top) {
    const row = table.insertRow();
    row.className = likely.token === token ? "chosen" : "";
    const cells = [quote(likely.token), percent(likely.logprob), likely.logprob.toFixed(3)];
    row.append(...cells.map((cell) => make("td", "", cell)));
  }
  return table;
}

/** @param {string} text */
function quote(text) {
  return text === "" ? "(special)" : JSON.stringify(text);
}

/** @param {number} logprob */
function percent(logprob) {
  const value = Math.exp(logprob) * 100;
  return `${value < 0.1 ? "<0.1" : value.toFixed(1)} %`;
}

/**
 * Below the token, or above it where there is no room; never beyond the window.
 *
 * @param {HTMLElement} box
 * @param {DOMRect} at
 */
function place(box, at) {
  const gap = 6;
  const { offsetWidth: width, offsetHeight: height } = box;
  const left = Math.max(gap, Math.min(at.left, innerWidth - width - gap));
  const below = at.bottom + gap;
  const top = below + height < innerHeight ? below : Math.max(gap, at.top - height - gap);
  box.style.left = `${left}px`;
  box.style.top = `${top}px`;
}
