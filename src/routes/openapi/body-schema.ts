/**
 * The JSON Schema of a request's body, from the zod schema that checks it. What each schema says it expected, when it
 * refuses something, is its description here.
 */
import { z } from "zod";

export type JsonObject = Record<string, unknown>;

export function toBodySchema(schema: z.ZodType): JsonObject {
  const described: JsonObject = z.toJSONSchema(schema, {
    io: "input",
    unrepresentable: "any",
    override: ({ zodSchema, jsonSchema }) => describe(zodSchema, jsonSchema as JsonObject),
  });
  // The dialect is that of the document.
  delete described.$schema;
  return described;
}

function describe(schema: z.core.$ZodTypes, described: JsonObject): void {
  const { def } = schema._zod;
  const expected = expectationOf(def);
  if (expected !== null) described.description ??= expected;
  // An integer without a limit of its own.
  if (described.maximum === Number.MAX_SAFE_INTEGER) delete described.maximum;
  if (described.minimum === Number.MIN_SAFE_INTEGER) delete described.minimum;
  if (def.type === "pipe") describePipe(def, described);
}

/** What goes into a pipe is what its end takes, but for two habits of `validation.ts` and those who use it. */
function describePipe({ in: start, out: end }: z.core.$ZodPipeDef, described: JsonObject): void {
  const [{ def: first }, { def: last }] = [start, end as z.core.$ZodTypes].map(({ _zod }) => _zod);
  // `array` looks at the length first, and at the elements behind the pipe.
  if (first.type === "array" && last.type === "array") {
    described.items = toBodySchema((end as z.core.$ZodArray<z.ZodType>)._zod.def.element);
  }
  // "a string or an array of ...": the string is made an array of one.
  const { description } = described;
  if (first.type !== "transform" || !String(description).startsWith("a string or ")) return;
  const whole = { ...described };
  for (const keyword of Object.keys(described)) delete described[keyword];
  Object.assign(described, { description, anyOf: [{ type: "string" }, whole] });
}

function expectationOf({ error }: z.core.$ZodTypeDef): string | null {
  const message = (error as z.core.$ZodErrorMap | undefined)?.({ code: "custom", input: undefined });
  return typeof message === "string" ? message : (message?.message ?? null);
}
