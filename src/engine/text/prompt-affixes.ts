/**
 * What a tokenizer's post-processor puts around a single prompt: the ids before it (BOS, for most) and after it.
 * Template, BERT and RoBERTa processing and sequences of them are known; byte-level processing adds nothing.
 */
import { z } from "zod";

export interface PromptAffixes {
  prefix: readonly number[];
  suffix: readonly number[];
}

const item = z.union([
  z.looseObject({ SpecialToken: z.looseObject({ id: z.string() }) }),
  z.looseObject({ Sequence: z.looseObject({ id: z.string() }) }),
]);
const namedId = z.tuple([z.string(), z.int()]);
const processor = z.discriminatedUnion("type", [
  z.looseObject({
    type: z.literal("TemplateProcessing"),
    single: z.array(item),
    special_tokens: z.record(z.string(), z.looseObject({ ids: z.array(z.int()) })),
  }),
  z.looseObject({ type: z.enum(["BertProcessing", "RobertaProcessing"]), cls: namedId, sep: namedId }),
  z.looseObject({ type: z.literal("Sequence"), processors: z.array(z.unknown()) }),
  z.looseObject({ type: z.literal("ByteLevel") }),
]);
type Template = Extract<z.infer<typeof processor>, { type: "TemplateProcessing" }>;

/** Reads tokenizer.json's `post_processor`. Throws a plain error that names what is wrong with it. */
export function promptAffixes(postProcessor: unknown): PromptAffixes {
  if (postProcessor === null || postProcessor === undefined) return { prefix: [], suffix: [] };
  const parsed = checked(postProcessor);
  switch (parsed.type) {
    case "TemplateProcessing":
      return templateAffixes(parsed);
    case "BertProcessing":
    case "RobertaProcessing":
      return { prefix: [parsed.cls[1]], suffix: [parsed.sep[1]] };
    case "Sequence":
      return parsed.processors.map(promptAffixes).reduce(wrap, { prefix: [], suffix: [] });
    case "ByteLevel":
      return { prefix: [], suffix: [] };
  }
}

function checked(postProcessor: unknown): z.infer<typeof processor> {
  const { success, data, error } = processor.safeParse(postProcessor);
  if (success) return data;
  const { path, message } = error.issues[0];
  const type = JSON.stringify((postProcessor as { type?: unknown }).type);
  throw new Error(
    `a post_processor of type ${type} that is not as expected at ${path.join(".")} (${message})`,
  );
}

function wrap(inner: PromptAffixes, outer: PromptAffixes): PromptAffixes {
  return { prefix: [...outer.prefix, ...inner.prefix], suffix: [...inner.suffix, ...outer.suffix] };
}

function templateAffixes({ single, special_tokens }: Template): PromptAffixes {
  const text = single.findIndex((part) => "Sequence" in part);
  if (text < 0) throw new Error('a post_processor without a "Sequence" in its single template');
  const idsOf = (parts: Template["single"]): number[] =>
    parts.flatMap((part) => {
      const name = (part.SpecialToken as { id: string } | undefined)?.id ?? "";
      if (!(name in special_tokens)) throw new Error(`a post_processor without ids for "${name}"`);
      return special_tokens[name].ids;
    });
  return { prefix: idsOf(single.slice(0, text)), suffix: idsOf(single.slice(text + 1)) };
}
