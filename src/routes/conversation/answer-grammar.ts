/**
 * What an answer must match, so that calls are made where they must be and text is as it must be: one structural tag of
 * xgrammar's, whose formats nest.
 */
import type { Grammar, JsonSchema, ToolDefinition } from "../../engine/client.ts";
import type { AnswerFormat } from "./answer-format.ts";
import type { Conversation } from "./conversation.ts";

/** A format of a structural tag. */
type Format = Readonly<Record<string, unknown>>;

/** `text` is what the answer must match if it is no call. Undefined where anything goes. */
export function answerGrammar(
  { tools, toolChoice }: Pick<Conversation, "tools" | "toolChoice">,
  format: AnswerFormat,
  text?: Grammar,
): Grammar | undefined {
  if (toolChoice === "required") return tagged(behindThoughts(calls(tools, format), format), "tools");
  if (typeof toolChoice === "object") {
    const chosen = tools.filter(({ name }) => name === toolChoice.name);
    return tagged(behindThoughts(calls(chosen, { ...format, callsMax: 1 }), format), "tools");
  }
  if (text !== undefined) {
    if (toolChoice === "none" && format.reasoning === undefined) return text;
    const answers = toolChoice === "none" ? textFormat(text) : either(calls(tools, format), textFormat(text));
    return tagged(behindThoughts(answers, format), text.param);
  }
  const isStrict = toolChoice === "auto" && tools.some(({ strict }) => strict);
  return isStrict ? tagged(callsAmongText(tools, format), "tools") : undefined;
}

function tagged(format: Format, param: string | undefined): Grammar {
  return { type: "structural-tag", tag: { type: "structural_tag", format }, param };
}

/** At least one call, and nothing else. */
function calls(tools: readonly ToolDefinition[], { toolCalls, callsMax }: AnswerFormat): Format {
  return {
    type: "tags_with_separator",
    tags: tools.map((tool) => callTag(tool, argumentsSchema(tool), toolCalls)),
    separator: toolCalls.separator,
    at_least_one: true,
    stop_after_first: callsMax === 1,
  };
}

/** Any text, in which a call of a strict tool has arguments that match. */
function callsAmongText(tools: readonly ToolDefinition[], { toolCalls, callsMax }: AnswerFormat): Format {
  return {
    type: "triggered_tags",
    triggers: [toolCalls.trigger],
    tags: tools.map((tool) =>
      callTag(tool, tool.strict ? argumentsSchema(tool) : { type: "object" }, toolCalls),
    ),
    at_least_one: false,
    stop_after_first: callsMax === 1,
  };
}

function callTag(tool: ToolDefinition, schema: JsonSchema, toolCalls: AnswerFormat["toolCalls"]): Format {
  const { begin, end } = toolCalls.frame(tool);
  return { type: "tag", begin, content: { type: "json_schema", json_schema: schema }, end };
}

/** An object, and no members that the tool does not name unless it says so: a model that is made to write would go on and on. */
function argumentsSchema({ parameters = { properties: {} } }: ToolDefinition): JsonSchema {
  return {
    type: "object",
    ...("properties" in parameters && { additionalProperties: false }),
    ...parameters,
  };
}

/** The same behind what the model thinks, if it does. */
function behindThoughts(format: Format, { reasoning }: AnswerFormat): Format {
  if (reasoning === undefined) return format;
  const thoughts = {
    type: "tag",
    begin: reasoning.isOpened ? "" : "<think>",
    content: { type: "any_text" },
    end: "</think>",
  };
  const thoughtful = {
    type: "sequence",
    elements: [thoughts, { type: "regex", pattern: "\\n{0,2}" }, format],
  };
  return reasoning.isOpened ? thoughtful : either(thoughtful, format);
}

function textFormat(grammar: Grammar): Format {
  switch (grammar.type) {
    case "json-object":
      return { type: "json_schema", json_schema: { type: "object" } };
    case "json-schema":
      return { type: "json_schema", json_schema: grammar.schema };
    case "regex":
      return { type: "regex", pattern: grammar.pattern };
    case "choice":
      return either(...grammar.choices.map((value) => ({ type: "const_string", value })));
    case "ebnf":
      return { type: "grammar", grammar: grammar.grammar };
    case "structural-tag":
      return "format" in grammar.tag ? (grammar.tag.format as Format) : grammar.tag;
  }
}

function either(...elements: readonly Format[]): Format {
  return elements.length === 1 ? elements[0] : { type: "or", elements };
}
