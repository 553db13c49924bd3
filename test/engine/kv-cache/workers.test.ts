/** KV specs as the engine gets them: from real threads, by structured clone. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { aggregate, type KvPolicy, type KvWishes } from "../../../src/engine/kv-cache/aggregate.ts";
import type { KvCacheSpec } from "../../../src/engine/kv-cache/spec.ts";
import type { LayersMessage } from "./spec-worker.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

async function reportedBy(layers: LayersMessage): Promise<KvCacheSpec[]> {
  const worker = new Worker(new URL("./spec-worker.ts", import.meta.url), { type: "module" });
  try {
    return await new Promise<KvCacheSpec[]>((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<KvCacheSpec[]>) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
      worker.postMessage(layers);
    });
  } finally {
    worker.terminate();
  }
}

async function policyOf(workers: readonly LayersMessage[], wishes?: KvWishes): Promise<KvPolicy> {
  return aggregate(await Promise.all(workers.map(reportedBy)), wishes);
}

const asked = { chunkedPrefill: true, prefixCaching: true };

test("two causal workers: chunks along tokens, prefixes by block", async () => {
  const policy = await policyOf(
    [
      [false, false],
      [false, false],
    ],
    asked,
  );
  expect(policy).toMatchObject({
    nonCausal: false,
    prefillCut: "tokens",
    prefixReuse: "blocks",
    notices: [],
  });
});

test.each([[undefined], [asked]])(
  "one non-causal layer in the second of two workers makes the whole engine non-causal; wishes: %j",
  async (wishes) => {
    const policy = await policyOf(
      [
        [false, false],
        [false, true],
      ],
      wishes,
    );
    expect(policy).toMatchObject({ nonCausal: true, prefillCut: "layers", prefixReuse: "whole" });
    expect(policy.notices.map((notice) => notice.split(":")[0])).toEqual([
      "Disabling chunked prefill along tokens",
      "Disabling prefix caching by block",
    ]);
  },
);
