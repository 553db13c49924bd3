/**
 * Attention of a Prefix LM: prompt tokens see each other in both directions, generated tokens see what is before them.
 * The idea and its three rules (decoder only, spec marked non-causal, metadata never causal) are those of vLLM's
 * layer of the same name.
 */
import type { KvCacheSpec } from "../kv-cache/spec.ts";
import { Attention, type AttentionOptions, type KvCacheOptions, type MetadataBuilder } from "./attention.ts";

/** Keeps everything an inner builder says but its causality: the sequence's own prefix length goes through. */
export function neverCausal(inner: MetadataBuilder): MetadataBuilder {
  return {
    kind: "prefix",
    build: (sequence) => ({ ...inner.build(sequence), prefixLength: sequence.prefixLength }),
  };
}

export class PrefillPrefixLMAttention extends Attention {
  readonly #builder = neverCausal(super.metadataBuilder);

  /** Throws TypeError for anything but decoder attention. */
  constructor(options: AttentionOptions) {
    if (options.attentionType !== "decoder") {
      throw new TypeError(
        `Cannot build PrefillPrefixLMAttention: expected decoder attention, got ${options.attentionType}`,
      );
    }
    super(options);
  }

  override get metadataBuilder(): MetadataBuilder {
    return this.#builder;
  }

  /** The ordinary spec, marked non-causal if it is one of full attention; any other kind stays as it is. */
  override getKvCacheSpec(options: KvCacheOptions): KvCacheSpec {
    const spec = super.getKvCacheSpec(options);
    return spec.kind === "full-attention" ? { ...spec, nonCausal: true } : spec;
  }
}
