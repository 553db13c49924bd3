/**
 * One policy for the whole engine, from the KV specs that the layers of all workers report.
 *
 * Owns the rule that decides how a prefill may be cut and what of it may be shared. A non-causal layer in any worker
 * decides for all: its keys and values depend on the whole prefix, in every layer behind it too. Knows no device.
 */
import { bytesPerBlock, type KvCacheSpec } from "./spec.ts";

/** What the user asked for; what is left out is on. */
export interface KvWishes {
  /** Cut prompts along tokens. Off, they are cut along layers. */
  chunkedPrefill?: boolean;
  prefixCaching?: boolean;
}

/** Layers that keep the same tokens, so that one block table serves them all. */
export interface KvGroup {
  /** Tokens a query of these layers sees, itself included; null is all of them. */
  window: number | null;
  /** Slots of the layers, ascending. */
  layers: readonly number[];
}

export interface KvPolicy {
  groups: readonly KvGroup[];
  /** The group of each layer, by slot. */
  layerGroups: readonly number[];
  /** By group: bytes of one block id through all layers of the group, of the worker that needs most. */
  bytesPerBlock: readonly number[];
  blockSize: number;
  nonCausal: boolean;
  /** Along what a prefill longer than the step's budget is cut. */
  prefillCut: "tokens" | "layers";
  /** What of an earlier request's prompt is reused. */
  prefixReuse: "blocks" | "whole" | "none";
  /** What was decided against the defaults or the wishes, a line each for the log. */
  notices: readonly string[];
}

const chunkingNotice =
  "Disabling chunked prefill along tokens: the model has non-causal attention layers. Prompts are cut along layers.";
const blockCachingNotice =
  "Disabling prefix caching by block: the model has non-causal attention layers. Prefixes are cached whole.";

/**
 * Specs are by worker and slot. Workers share the heads of the same layers, so they must agree on everything but
 * heads and causality; throws if they do not. Also throws when there are no layers.
 */
export function aggregate(
  specsOfAllWorkers: readonly (readonly KvCacheSpec[])[],
  wishes: KvWishes = {},
): KvPolicy {
  const layers = specsOfAllWorkers.at(0) ?? [];
  if (layers.length === 0) throw new Error("Cannot aggregate KV specs: no worker reported a layer");
  for (const [worker, specs] of specsOfAllWorkers.entries()) assertSameLayers(layers, specs, worker);
  const groups = groupLayers(layers);
  return {
    groups,
    layerGroups: layers.map((_, slot) => groups.findIndex((group) => group.layers.includes(slot))),
    bytesPerBlock: groups.map((group) => bytesOfGroup(group, specsOfAllWorkers)),
    blockSize: layers[0].blockSize,
    ...decide(specsOfAllWorkers.flat().some(isNonCausal), wishes),
  };
}

function decide(
  nonCausal: boolean,
  { chunkedPrefill = true, prefixCaching = true }: KvWishes,
): Pick<KvPolicy, "nonCausal" | "prefillCut" | "prefixReuse" | "notices"> {
  const notices: string[] = [];
  if (nonCausal && chunkedPrefill) notices.push(chunkingNotice);
  if (nonCausal && prefixCaching) notices.push(blockCachingNotice);
  const reuse = nonCausal ? "whole" : "blocks";
  return {
    nonCausal,
    prefillCut: chunkedPrefill && !nonCausal ? "tokens" : "layers",
    prefixReuse: prefixCaching ? reuse : "none",
    notices,
  };
}

/** Groups in order of their first layer. */
function groupLayers(specs: readonly KvCacheSpec[]): KvGroup[] {
  const layersOfWindow = new Map<number | null, number[]>();
  specs.forEach((spec, slot) => {
    const layers = layersOfWindow.get(keptWindow(spec));
    if (layers) layers.push(slot);
    else layersOfWindow.set(keptWindow(spec), [slot]);
  });
  return [...layersOfWindow].map(([window, layers]) => ({ window, layers }));
}

function bytesOfGroup({ layers }: KvGroup, specsOfAllWorkers: readonly (readonly KvCacheSpec[])[]): number {
  const bytes = specsOfAllWorkers.map((specs) =>
    layers.reduce((sum, slot) => sum + bytesPerBlock(specs[slot]), 0),
  );
  return Math.max(...bytes);
}

function assertSameLayers(
  expected: readonly KvCacheSpec[],
  found: readonly KvCacheSpec[],
  worker: number,
): void {
  if (found.length !== expected.length) {
    throw new Error(
      `Cannot aggregate KV specs: expected ${expected.length} layers in worker ${worker}, got ${found.length}`,
    );
  }
  found.forEach((spec, slot) => {
    const reference = expected[slot];
    if (keptWindow(spec) !== keptWindow(reference)) {
      throw new Error(
        `Cannot aggregate KV specs: expected ${describe(reference)} in layer ${slot} of worker ${worker}, got ${describe(spec)}`,
      );
    }
    if (spec.blockSize !== expected[0].blockSize) {
      throw new Error(
        `Cannot aggregate KV specs: expected blocks of ${expected[0].blockSize} tokens in layer ${slot} of worker ${worker}, got ${spec.blockSize}`,
      );
    }
  });
}

function isNonCausal(spec: KvCacheSpec): boolean {
  return spec.kind === "full-attention" && spec.nonCausal;
}

/** How many of the last tokens the layer keeps; null is all of them. */
function keptWindow(spec: KvCacheSpec): number | null {
  return spec.kind === "sliding-window" ? spec.slidingWindow : null;
}

function describe(spec: KvCacheSpec): string {
  return spec.kind === "sliding-window" ? `a window of ${spec.slidingWindow} tokens` : "full attention";
}
