/** Which layers see everything and which only a window of the past. */
import type { RawConfig } from "./config-schema.ts";
import { checkpointFault, show } from "./json-file.ts";

export type LayerType = "full_attention" | "sliding_attention";

export interface LayerWindow {
  type: LayerType;
  /** The query at q sees the keys k with q - k < slidingWindow, itself included; null: all of them. */
  slidingWindow: number | null;
}

/** Mistral's and Gemma 3's class defaults, which their documentation names. */
const MISTRAL_WINDOW_DEFAULT = 4096;
const GEMMA3_PATTERN_DEFAULT = 6;
/** Every how many layers SmolLM3 has one without RoPE, unless the file says. */
const NO_ROPE_INTERVAL_DEFAULT = 4;

/** One entry a layer. Throws `CheckpointError` when the file names windows that it does not give. */
export function layerWindows(raw: RawConfig, layerCount: number): LayerWindow[] {
  const slidingWindow = windowSize(raw);
  const types = layerTypes(raw, layerCount, slidingWindow);
  return types.map((type) => {
    if (type === "full_attention") return { type, slidingWindow: null };
    if (slidingWindow !== null) return { type, slidingWindow };
    const expected = "a positive integer, since layer_types names sliding_attention";
    throw checkpointFault({ file: raw.file, part: "sliding_window", expected, found: "no window in use" });
  });
}

/** SmolLM3: which layers rotate queries and keys. 1 in `no_rope_layers` means the layer does, despite the name. */
export function ropeLayers(raw: RawConfig, layerCount: number): boolean[] {
  if (raw.architecture !== "smollm3") return Array<boolean>(layerCount).fill(true);
  const { no_rope_layers: listed, file } = raw;
  if (listed === null || listed === undefined) {
    const interval = raw.no_rope_layer_interval ?? NO_ROPE_INTERVAL_DEFAULT;
    return Array.from({ length: layerCount }, (_, i) => (i + 1) % interval !== 0);
  }
  if (listed.length < layerCount) {
    const expected = `an entry for each of ${layerCount} layers`;
    throw checkpointFault({ file, part: "no_rope_layers", expected, found: `${listed.length}` });
  }
  return listed.slice(0, layerCount).map((usesRope) => usesRope === 1);
}

/** The window in use, or null. */
function windowSize(raw: RawConfig): number | null {
  const stated = raw.sliding_window ?? null;
  switch (raw.architecture) {
    case "hrm_text":
    case "llama":
      return null;
    case "mistral":
      return raw.sliding_window === undefined ? MISTRAL_WINDOW_DEFAULT : stated;
    case "phi3":
    case "gemma3_text":
      return stated;
    case "qwen2":
    case "qwen3":
    case "smollm3":
      return raw.use_sliding_window === true ? stated : null;
  }
}

function layerTypes(raw: RawConfig, layerCount: number, slidingWindow: number | null): LayerType[] {
  switch (raw.architecture) {
    case "hrm_text":
    case "llama":
    case "mistral":
    case "phi3": {
      const type = slidingWindow === null ? "full_attention" : "sliding_attention";
      return Array<LayerType>(layerCount).fill(type);
    }
    case "qwen2":
    case "qwen3":
    case "smollm3":
    case "gemma3_text": {
      const { layer_types: listed } = raw;
      if (listed !== null && listed !== undefined) return checkedTypes(listed, layerCount, raw.file);
      const slides = slidingRule(raw, layerCount, slidingWindow);
      return Array.from({ length: layerCount }, (_, i) =>
        slides(i) ? "sliding_attention" : "full_attention",
      );
    }
  }
}

/** Which layers slide in a file that has no `layer_types`. */
function slidingRule(
  raw: RawConfig,
  layerCount: number,
  slidingWindow: number | null,
): (layer: number) => boolean {
  if (raw.architecture === "gemma3_text") {
    const pattern = raw.sliding_window_pattern ?? raw._sliding_window_pattern ?? GEMMA3_PATTERN_DEFAULT;
    return (layer) => (layer + 1) % pattern !== 0;
  }
  if (slidingWindow === null) return () => false;
  if (raw.architecture === "smollm3") {
    const rope = ropeLayers(raw, layerCount);
    return (layer) => rope[layer] === false;
  }
  const first = raw.max_window_layers;
  if (first === null || first === undefined) {
    const expected = "a layer number, since use_sliding_window is true";
    throw checkpointFault({ file: raw.file, part: "max_window_layers", expected, found: show(first) });
  }
  return (layer) => layer >= first;
}

function checkedTypes(listed: readonly string[], layerCount: number, file: string): LayerType[] {
  const part = "layer_types";
  if (listed.length !== layerCount) {
    const expected = `an entry for each of ${layerCount} layers`;
    throw checkpointFault({ file, part, expected, found: `${listed.length}` });
  }
  return listed.map((type) => {
    if (type === "full_attention" || type === "sliding_attention") return type;
    throw checkpointFault({ file, part, expected: "full_attention or sliding_attention", found: show(type) });
  });
}
