/** Rotary position embedding as a checkpoint describes it, in either generation of the format. */
import { z } from "zod";
import type { Architecture, RawConfig } from "./config-schema.ts";
import { checked, checkpointFault, show } from "./json-file.ts";
import type { LayerType } from "./layer-config.ts";

const ROPE_TYPES = ["default", "linear", "llama3"] as const;
export type RopeType = (typeof ROPE_TYPES)[number];

/**
 * Frequencies are `theta ^ (-2i / rotaryDim)` for i < rotaryDim / 2; the first `rotaryDim` elements of a head are
 * rotated in halves. `linear` divides all by `factor`; `llama3` divides the slow ones and blends in between
 * (`_compute_llama3_parameters` in transformers). Fields that a type does not use hold values that change nothing.
 */
export interface RopeSpec {
  type: RopeType;
  theta: number;
  rotaryDim: number;
  factor: number;
  lowFreqFactor: number;
  highFreqFactor: number;
  originalMaxPositions: number;
}

/**
 * Bases where old files have no `rope_theta` at all: when they were written it was a constant of the code.
 * Everybody else's file must say.
 */
const IMPLICIT_THETA: Partial<Record<Architecture, number>> = { llama: 10_000, phi3: 10_000 };

const positive = z.number("a positive number").positive("a positive number");
const sectionSchema = z.object({
  rope_type: z.string("the name of a RoPE type").nullish(),
  type: z.string("the name of a RoPE type").nullish(),
  rope_theta: positive.nullish(),
  partial_rotary_factor: positive.nullish(),
  factor: positive.nullish(),
  low_freq_factor: positive.nullish(),
  high_freq_factor: positive.nullish(),
  original_max_position_embeddings: positive.nullish(),
});
type Section = Readonly<Record<string, unknown>>;
type RopeSection = z.output<typeof sectionSchema> & { part: string };

/** The RoPE of layers of one type. Throws `CheckpointError`, for a RoPE type that is not served too. */
export function ropeSpec(raw: RawConfig, layerType: LayerType, headDim: number): RopeSpec {
  const { file } = raw;
  const rope = ropeSection(raw, layerType);
  const type = ropeType(rope, file);
  const spec = {
    type,
    theta: need(rope, "rope_theta", file),
    rotaryDim: rotaryDim(raw, rope, headDim),
    factor: type === "default" ? 1 : need(rope, "factor", file),
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositions: raw.max_position_embeddings,
  };
  return type === "llama3" ? { ...spec, ...llama3Fields(rope, file) } : spec;
}

/** The section with what the file says beside it, or its format implies, put into it. */
function ropeSection(raw: RawConfig, layerType: LayerType): RopeSection {
  const { part, values } = sectionOf(raw, layerType);
  const rope = checked(sectionSchema, values, { file: raw.file, part });
  return {
    ...rope,
    part,
    rope_theta: rope.rope_theta ?? IMPLICIT_THETA[raw.architecture],
    // transformers gives the field beside the section the right of way.
    original_max_position_embeddings:
      raw.original_max_position_embeddings ?? rope.original_max_position_embeddings,
  };
}

function llama3Fields(rope: RopeSection, file: string) {
  const lowFreqFactor = need(rope, "low_freq_factor", file);
  const highFreqFactor = need(rope, "high_freq_factor", file);
  if (highFreqFactor <= lowFreqFactor) {
    const [expected, found] = [`more than low_freq_factor ${lowFreqFactor}`, `${highFreqFactor}`];
    throw checkpointFault({ file, part: `${rope.part}, high_freq_factor`, expected, found });
  }
  const originalMaxPositions = need(rope, "original_max_position_embeddings", file);
  return { lowFreqFactor, highFreqFactor, originalMaxPositions };
}

type NumberField =
  "rope_theta" | "factor" | "low_freq_factor" | "high_freq_factor" | "original_max_position_embeddings";

function need(rope: RopeSection, field: NumberField, file: string): number {
  const value = rope[field];
  if (value !== null && value !== undefined) return value;
  const part = `${rope.part}, ${field}`;
  throw checkpointFault({ file, part, expected: "a positive number", found: show(value) });
}

function ropeType({ rope_type, type, part }: RopeSection, file: string): RopeType {
  const named = rope_type ?? type ?? "default";
  const known = ROPE_TYPES.find((candidate) => candidate === named);
  if (known !== undefined) return known;
  const expected = `a RoPE type of ${ROPE_TYPES.join(", ")}`;
  throw checkpointFault({ file, part, expected, found: show(named) });
}

function rotaryDim(raw: RawConfig, rope: RopeSection, headDim: number): number {
  const factor = rope.partial_rotary_factor ?? raw.partial_rotary_factor ?? 1;
  const dim = Math.floor(headDim * factor);
  if (factor <= 1 && dim > 0 && dim % 2 === 0) return dim;
  const expected = `an even number of rotated elements in a head of ${headDim}`;
  throw checkpointFault({ file: raw.file, part: "partial_rotary_factor", expected, found: `${dim}` });
}

interface LocatedSection {
  part: string;
  values: Section;
}

/** The section that speaks for this layer type, with `rope_theta` put into it. */
function sectionOf(raw: RawConfig, layerType: LayerType): LocatedSection {
  const theta = raw.rope_theta;
  const parameters = raw.rope_parameters ?? null;
  const scaling = raw.rope_scaling ?? null;
  if (parameters !== null && isByLayerType(parameters)) return sectionByLayerType(parameters, raw, layerType);
  // Older Gemma 3 files: `rope_theta` and `rope_scaling` are for full layers, sliding ones have a base of their own.
  if (raw.architecture === "gemma3_text" && layerType === "sliding_attention") {
    return { part: "rope_local_base_freq", values: { rope_theta: raw.rope_local_base_freq } };
  }
  // Where both are given, transformers takes `rope_scaling` for the whole section.
  if (scaling !== null) {
    return { part: "rope_scaling", values: { rope_theta: theta ?? parameters?.rope_theta, ...scaling } };
  }
  return {
    part: parameters === null ? "RoPE" : "rope_parameters",
    values: { rope_theta: theta, ...parameters },
  };
}

function sectionByLayerType(parameters: Section, raw: RawConfig, layerType: LayerType): LocatedSection {
  const { file, rope_scaling: scaling, rope_theta } = raw;
  const part = `rope_parameters, ${layerType}`;
  if (scaling !== null && scaling !== undefined) {
    const expected = "none beside rope_parameters by layer type";
    throw checkpointFault({ file, part: "rope_scaling", expected, found: show(scaling) });
  }
  const values: unknown = parameters[layerType];
  if (typeof values === "object" && values !== null) return { part, values: { rope_theta, ...values } };
  throw checkpointFault({ file, part, expected: "an object", found: show(values) });
}

function isByLayerType(parameters: Section): boolean {
  return Object.keys(parameters).some((key) => key.endsWith("_attention"));
}
