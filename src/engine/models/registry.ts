/** Which code builds which architecture. */
import { CheckpointError } from "../errors.ts";
import type { Architecture } from "../weights/config.ts";
import type { ModelBuilder } from "./builder.ts";
import { buildGemma3 } from "./gemma3.ts";
import { buildHrmText } from "./hrm-text.ts";
import { buildLlama } from "./llama.ts";
import type { DecoderModel } from "./model.ts";
import { buildQwen3 } from "./qwen3.ts";

const builders: Record<Architecture, (builder: ModelBuilder) => Promise<DecoderModel>> = {
  gemma3_text: buildGemma3,
  hrm_text: buildHrmText,
  llama: buildLlama,
  mistral: buildLlama,
  phi3: buildLlama,
  qwen2: buildLlama,
  qwen3: buildQwen3,
  smollm3: buildLlama,
};

/** Loads the model's weights and puts its layers together. Throws `CheckpointError`. */
export async function buildModel(builder: ModelBuilder): Promise<DecoderModel> {
  const { architecture, finalSoftCap } = builder.config;
  if (finalSoftCap !== null) {
    throw new CheckpointError(
      `Cannot load this model: expected no final_logit_softcapping, got ${finalSoftCap}`,
    );
  }
  return builders[architecture](builder);
}
