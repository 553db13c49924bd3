/** The fields of an HRM-Text checkpoint: two stacks of blocks, run in cycles, each pass with KV slots of its own. */
import type { RawConfig } from "./config-schema.ts";
import { checkpointFault, show } from "./json-file.ts";

export interface HrmConfig {
  /** Blocks with weights in each of the two stacks. */
  layersPerStack: number;
  /** H_cycles: how often the high stack runs. */
  highCycles: number;
  /** L_cycles: how often the low stack runs before each run of the high one. */
  lowCycles: number;
  /** The prompt is read in both directions. */
  prefixLm: boolean;
}

export interface HrmFields {
  hrm: HrmConfig;
  /** KV slots: layersPerStack * highCycles * (lowCycles + 1). */
  layerCount: number;
  embeddingScale: number;
}

/**
 * Both shapes of the file: with `num_layers_per_stack`, `num_hidden_layers` counts the KV slots; without,
 * `num_hidden_layers` is the count per stack. Throws `CheckpointError`.
 */
export function parseHrmConfig(raw: RawConfig): HrmFields {
  const { file, num_hidden_layers: hidden, num_layers_per_stack, num_attention_heads: heads } = raw;
  const highCycles = need(raw, "H_cycles");
  const lowCycles = need(raw, "L_cycles");
  const layersPerStack = num_layers_per_stack ?? hidden;
  const layerCount = layersPerStack * highCycles * (lowCycles + 1);
  if (typeof num_layers_per_stack === "number" && hidden !== layerCount) {
    const expected = `${layerCount} KV slots (num_layers_per_stack * H_cycles * (L_cycles + 1))`;
    throw checkpointFault({ file, part: "num_hidden_layers", expected, found: `${hidden}` });
  }
  if ((raw.num_key_value_heads ?? heads) !== heads) {
    const [expected, found] = [`${heads}, as many as query heads`, `${raw.num_key_value_heads}`];
    throw checkpointFault({ file, part: "num_key_value_heads", expected, found });
  }
  // The family is a Prefix LM unless its file says otherwise; older files do not have the field.
  const prefixLm = raw.prefix_lm ?? true;
  const hrm = { layersPerStack, highCycles, lowCycles, prefixLm };
  return { hrm, layerCount, embeddingScale: embeddingScale(raw) };
}

/** Without the field it is 1 / initializer_range, by the definition of the format. */
function embeddingScale(raw: RawConfig): number {
  if (typeof raw.embedding_scale === "number") return raw.embedding_scale;
  if (typeof raw.initializer_range === "number") return 1 / raw.initializer_range;
  const expected = "a positive number, or an initializer_range";
  throw checkpointFault({
    file: raw.file,
    part: "embedding_scale",
    expected,
    found: show(raw.embedding_scale),
  });
}

function need(raw: RawConfig, part: "H_cycles" | "L_cycles"): number {
  const value = raw[part];
  if (typeof value === "number") return value;
  throw checkpointFault({ file: raw.file, part, expected: "a positive integer", found: show(value) });
}
