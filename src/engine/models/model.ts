/** What a model is to the runner: an embedding, layer passes in order, and a head. */
import type { Tensor } from "../../gpu/tensor.ts";
import type { Attention } from "../layers/attention.ts";
import type { ForwardContext } from "../layers/context.ts";
import type { ModelConfig } from "../weights/config.ts";

/** Records one layer's work on the step's tokens. Passes run in order; a prefill may stop between any two. */
export type LayerPass = (context: ForwardContext) => void;

export interface DecoderModel {
  readonly config: ModelConfig;
  /** The attention layer that owns each KV slot, in slot order. */
  readonly attentions: readonly Attention[];
  /** Token ids to the states that the first pass reads. */
  embed: LayerPass;
  readonly passes: readonly LayerPass[];
  /** The states of all tokens that `head` multiplies, f32 [tokens, hidden], once the passes have run. */
  finalStates(context: ForwardContext): Tensor;
  /** States of the wanted rows to logits, f32 [rows, vocab]. */
  head(context: ForwardContext): Tensor;
}
