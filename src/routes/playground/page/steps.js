/** The last steps as rectangles of tokens x layer passes, and the same in words. */
import { byId, make } from "./dom.js";

/**
 * @typedef {"decode" | "prefill" | "chunk" | "layered" | "replay"} Kind
 * @typedef {{ kind: Kind, passes: [number, number], sequences: number, tokenCount: number }} Rectangle
 * @typedef {{ index: number, ms: number, rectangles: Rectangle[] }} Step
 */

const namespace = "http://www.w3.org/2000/svg";
/** Steps that are kept, and of these so many are put in words. */
const stepsMax = 64;
const rowsMax = 24;
/** In pixels. */
const height = 96;
const stepGap = 3;
const tokenWidth = 4;

export class StepView {
  #svg = byId("steps", SVGSVGElement);
  #text = byId("steps-text", HTMLDetailsElement);
  #rows = byId("steps-rows", HTMLElement);
  /** @type {Step[]} */
  #steps = [];
  /** Layer passes of the model: a decode runs through all of them. */
  #passCount = 1;

  constructor() {
    new ResizeObserver(() => this.#draw()).observe(this.#svg);
    this.#text.addEventListener("toggle", () => this.#write());
  }

  /** @param {readonly Step[]} steps */
  add(steps) {
    if (steps.length === 0) return;
    const isAnew = steps[0].index <= (this.#steps.at(-1)?.index ?? 0);
    this.#steps = [...(isAnew ? [] : this.#steps), ...steps].slice(-stepsMax);
    const lastPasses = steps.flatMap(({ rectangles }) => rectangles.map(({ passes: [, to] }) => to));
    this.#passCount = Math.max(this.#passCount, ...lastPasses);
    this.#draw();
    this.#write();
  }

  /** From the right, the newest first, as many as there is room for. */
  #draw() {
    const width = this.#svg.clientWidth;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    /** @type {SVGElement[]} */
    const shapes = [];
    let right = width;
    let count = 0;
    for (const step of this.#steps.toReversed()) {
      if (right <= 0) break;
      for (const rectangle of step.rectangles.toReversed()) {
        const wide = widthOf(rectangle);
        right -= wide;
        shapes.push(this.#toShape(rectangle, right, wide));
      }
      right -= stepGap;
      count++;
    }
    this.#svg.replaceChildren(...shapes);
    if (count > 0) this.#svg.setAttribute("aria-label", summary(this.#steps.slice(-count)));
  }

  /**
   * @param {Rectangle} rectangle
   * @param {number} left
   * @param {number} wide
   */
  #toShape(rectangle, left, wide) {
    const [from, to] = rectangle.passes.map((pass) => (pass / this.#passCount) * height);
    const shape = document.createElementNS(namespace, "rect");
    const sizes = { x: left, y: from, width: wide - 1, height: to - from };
    for (const [name, value] of Object.entries(sizes)) shape.setAttribute(name, String(value));
    shape.setAttribute("class", colourOf(rectangle));
    const title = document.createElementNS(namespace, "title");
    title.textContent = inWords(rectangle);
    shape.append(title);
    return shape;
  }

  #write() {
    if (!this.#text.open) return;
    const rows = this.#steps
      .slice(-rowsMax)
      .toReversed()
      .map(({ index, ms, rectangles }) => {
        const row = make("tr");
        const words = rectangles.map(inWords).join("; ");
        row.append(make("td", "", String(index)), make("td", "", ms.toFixed(1)), make("td", "", words));
        return row;
      });
    this.#rows.replaceChildren(...rows);
  }
}

/** @param {Rectangle} rectangle */
function widthOf({ tokenCount }) {
  return tokenWidth * (1 + Math.log2(tokenCount));
}

/**
 * A chunk is a prefill that is cut along tokens.
 *
 * @param {Rectangle} rectangle
 */
function colourOf({ kind }) {
  return kind === "chunk" ? "prefill" : kind;
}

/** @param {Rectangle} rectangle */
function inWords({ kind, passes: [from, to], sequences, tokenCount }) {
  const tokens = `${tokenCount} ${tokenCount === 1 ? "token" : "tokens"}`;
  const of = sequences > 1 ? ` of ${sequences} sequences` : "";
  return `${kind} ${tokens}${of} × passes ${from + 1} to ${to}`;
}

/** @param {readonly Step[]} steps */
function summary(steps) {
  const rectangles = steps.flatMap((step) => step.rectangles);
  const kinds = Map.groupBy(rectangles, ({ kind }) => kind);
  const parts = [...kinds].map(([kind, group]) => {
    const tokens = group.reduce((sum, { tokenCount }) => sum + tokenCount, 0);
    return `${group.length} ${kind}, ${tokens} tokens`;
  });
  return `Rectangles of the last ${steps.length} steps: ${parts.join("; ")}`;
}
