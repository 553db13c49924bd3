/** `GET /v1/models`: the one model that is served. */
import type { ModelCard } from "../engine/client.ts";

export function modelList(model: ModelCard): object {
  return { object: "list", data: [modelEntry(model)] };
}

/** `max_model_len` is not OpenAI's; clients of vLLM and SGLang look for it. */
export function modelEntry(model: ModelCard): object {
  return {
    id: model.id,
    object: "model",
    created: model.created,
    owned_by: "prelude",
    max_model_len: model.maxModelLen,
  };
}
