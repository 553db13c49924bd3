/** The live view: the engine's numbers while the page is looked at. Nobody who looks, no stream. */
import { byId } from "./dom.js";
import { ask, eventsOf, Failure } from "./server.js";
import { StepView } from "./steps.js";

/**
 * @typedef {{ used: number, cached: number, free: number, total: number }} Blocks
 * @typedef {{
 *   running: number, waiting: number, paused: number, preemptions: number, promptTokens: number,
 *   generationTokens: number, kvBlocks: Blocks[], steps: import("./steps.js").Step[]
 * }} Snapshot
 */

/** How long a view that broke waits, and the time over which rates are taken. */
const retryMs = 2_000;
const rateMs = 2_000;

const trouble = byId("trouble", HTMLElement);
const steps = new StepView();
/** @type {AbortController | null} */
let watching = null;
let onRefusedKey = () => {};

/**
 * Looks now and whenever the page is seen; again with another key.
 *
 * @param {() => void} askForKey
 */
export function startEngineView(askForKey) {
  onRefusedKey = askForKey;
  document.addEventListener("visibilitychange", look);
  look();
}

function look() {
  watching?.abort();
  watching = document.hidden ? null : new AbortController();
  if (watching) void watch(watching.signal);
}

/** @param {AbortSignal} signal */
async function watch(signal) {
  while (!signal.aborted) {
    try {
      await watchOnce(signal);
    } catch (error) {
      if (signal.aborted) return;
      trouble.textContent = error instanceof Error ? error.message : String(error);
      // Without a key there is nothing to see; with one, somebody looks anew.
      if (error instanceof Failure && error.status === 401) return onRefusedKey();
    }
    await new Promise((resolve) => setTimeout(resolve, retryMs));
  }
}

/** @param {AbortSignal} signal */
async function watchOnce(signal) {
  /** @type {{ ms: number, snapshot: Snapshot }[]} */
  let recent = [];
  /** @type {AsyncIterable<Snapshot>} */
  const snapshots = eventsOf(await ask("/live", { signal }));
  for await (const snapshot of snapshots) {
    const ms = performance.now();
    recent = [...recent.filter((before) => ms - before.ms <= rateMs), { ms, snapshot }];
    trouble.textContent = "";
    show(snapshot);
    showRates(recent);
  }
}

/** @param {Snapshot} snapshot */
function show({ running, waiting, kvBlocks, steps: done }) {
  byId("running", HTMLElement).textContent = String(running);
  byId("queued", HTMLElement).textContent = String(waiting);
  showBlocks(kvBlocks);
  steps.add(done);
}

/** @param {readonly Blocks[]} groups */
function showBlocks(groups) {
  /** @param {keyof Blocks} name */
  const sum = (name) => groups.reduce((total, blocks) => total + blocks[name], 0);
  const [used, cached, total] = [sum("used"), sum("cached"), sum("total")];
  byId("blocks", HTMLElement).textContent = `KV blocks: ${used} used, ${cached} cached, of ${total}`;
  byId("blocks-used", HTMLElement).style.width = `${(used / total) * 100}%`;
  byId("blocks-cached", HTMLElement).style.width = `${(cached / total) * 100}%`;
}

/** @param {readonly { ms: number, snapshot: Snapshot }[]} recent */
function showRates(recent) {
  const first = recent[0];
  const last = recent[recent.length - 1];
  const seconds = (last.ms - first.ms) / 1000;
  /** @param {"promptTokens" | "generationTokens"} name */
  const rate = (name) =>
    (seconds > 0 ? (last.snapshot[name] - first.snapshot[name]) / seconds : 0).toFixed(0);
  byId("generated", HTMLElement).textContent = rate("generationTokens");
  byId("prompted", HTMLElement).textContent = rate("promptTokens");
}
