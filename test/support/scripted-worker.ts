// An engine's thread without an engine: says it is ready, and does with a request what the request's id says.
import type { FromEngine, ToEngine } from "../../src/engine/protocol.ts";

const info = { adapter: "none", maxModelLen: 32, isPrefixLm: true, maxSequences: 4 };

function post(message: FromEngine): void {
  postMessage(message);
}

globalThis.addEventListener("message", ({ data }: MessageEvent<ToEngine>) => {
  if (data.type === "load") {
    if (data.options.modelDir.includes("throw")) throw new Error("thrown while loading");
    post({ type: "ready", info });
  }
  if (data.type === "close") post({ type: "closed" });
  if (data.type !== "submit") return;
  const { id, promptIds } = data.request;
  switch (id) {
    case "throw":
      throw new Error("thrown on purpose");
    case "silent":
      return;
    case "fail":
      post({ type: "failed", id, error: { name: "RangeError", message: "failed on purpose" } });
      return;
    default:
      post({ type: "tokens", id, choice: 0, ids: [...promptIds] });
      post({ type: "finish", id, choice: 0, reason: "length" });
  }
});
