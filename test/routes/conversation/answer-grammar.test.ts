/** What the engine is asked to enforce for tools and formats; that it does is tested with it. */
import { describe, expect, test } from "bun:test";
import type { Grammar, ToolDefinition } from "../../../src/engine/client.ts";
import type { AnswerFormat } from "../../../src/routes/conversation/answer-format.ts";
import { answerGrammar } from "../../../src/routes/conversation/answer-grammar.ts";
import type { ToolChoice } from "../../../src/routes/conversation/conversation.ts";
import { toolCallFormats } from "../../../src/routes/conversation/tool-calls/registry.ts";

const plain: AnswerFormat = { newId: () => "1", toolCalls: toolCallFormats.hermes, callsMax: Infinity };
const schema = { properties: { city: { type: "string" } } };
const weather: ToolDefinition = { name: "weather", parameters: schema };
const time: ToolDefinition = { name: "time" };

interface Asked {
  tools?: readonly ToolDefinition[];
  toolChoice: ToolChoice;
  format?: Partial<AnswerFormat>;
  text?: Grammar;
}

function grammar({ tools = [weather, time], toolChoice, format, text }: Asked): unknown {
  const made = answerGrammar({ tools, toolChoice }, { ...plain, ...format }, text);
  return made?.type === "structural-tag" ? made.tag.format : made;
}

const closed = { type: "object", additionalProperties: false };
const tag = (name: string, json_schema: object) => ({
  type: "tag",
  begin: `<tool_call>\n{"name": "${name}", "arguments": `,
  content: { type: "json_schema", json_schema },
  end: "}\n</tool_call>",
});
const weatherTag = tag("weather", { ...closed, ...schema });
const timeTag = tag("time", { ...closed, properties: {} });
const calls = {
  type: "tags_with_separator",
  tags: [weatherTag, timeTag],
  separator: "\n",
  at_least_one: true,
  stop_after_first: false,
};

describe("tool_choice", () => {
  test("auto and none leave the model free", () => {
    expect(grammar({ toolChoice: "auto" })).toBeUndefined();
    expect(grammar({ toolChoice: "none" })).toBeUndefined();
  });

  test("required: calls of any of the tools", () => {
    expect(grammar({ toolChoice: "required" })).toEqual(calls);
    expect(grammar({ toolChoice: "required", format: { callsMax: 1 } })).toEqual({
      ...calls,
      stop_after_first: true,
    });
  });

  test("by name: one call of that one, whatever text should be", () => {
    const one = { ...calls, tags: [timeTag], stop_after_first: true };
    expect(grammar({ toolChoice: { name: "time" }, text: { type: "json-object" } })).toEqual(one);
  });

  test("in the model's own style", () => {
    const format = { toolCalls: toolCallFormats["llama3-json"] };
    expect(grammar({ tools: [weather], toolChoice: "required", format })).toMatchObject({
      tags: [{ begin: '{"name": "weather", "parameters": ', end: "}" }],
      separator: "; ",
    });
  });

  test("a tool that allows more than it names is left to", () => {
    const open = { ...weather, parameters: { ...schema, additionalProperties: true } };
    expect(grammar({ tools: [open], toolChoice: "required" })).toMatchObject({
      tags: [{ content: { json_schema: { additionalProperties: true } } }],
    });
  });

  test("auto with a strict tool: its arguments match wherever it is called", () => {
    expect(grammar({ tools: [{ ...weather, strict: true }, time], toolChoice: "auto" })).toEqual({
      type: "triggered_tags",
      triggers: ["<tool_call>"],
      tags: [weatherTag, tag("time", { type: "object" })],
      at_least_one: false,
      stop_after_first: false,
    });
  });
});

describe("text", () => {
  const text: Grammar = { type: "regex", pattern: "[ab]+", param: "response_format" };
  const textFormat = { type: "regex", pattern: "[ab]+" };

  test("without tools and thoughts is left to the engine as it is", () => {
    expect(grammar({ toolChoice: "none", text })).toEqual(text);
  });

  test("with tools is one of two ways", () => {
    expect(grammar({ toolChoice: "auto", text })).toEqual({ type: "or", elements: [calls, textFormat] });
  });

  test.each<[Grammar, object]>([
    [{ type: "json-object" }, { type: "json_schema", json_schema: { type: "object" } }],
    [
      { type: "json-schema", schema },
      { type: "json_schema", json_schema: schema },
    ],
    [
      { type: "choice", choices: ["a"] },
      { type: "const_string", value: "a" },
    ],
    [
      { type: "choice", choices: ["a", "b"] },
      {
        type: "or",
        elements: [
          { type: "const_string", value: "a" },
          { type: "const_string", value: "b" },
        ],
      },
    ],
    [
      { type: "ebnf", grammar: 'root ::= "a"' },
      { type: "grammar", grammar: 'root ::= "a"' },
    ],
    [{ type: "structural-tag", tag: { format: textFormat } }, textFormat],
    [{ type: "structural-tag", tag: textFormat }, textFormat],
  ])("%j", (given, expected) => {
    expect(grammar({ toolChoice: "auto", text: given })).toEqual({ type: "or", elements: [calls, expected] });
  });

  test("comes behind thoughts, which are free", () => {
    const thoughts = { type: "tag", begin: "", content: { type: "any_text" }, end: "</think>" };
    const lineBreaks = { type: "regex", pattern: "\\n{0,2}" };
    const opened = { reasoning: { isOpened: true, isIncluded: true } };
    const thoughtful = { type: "sequence", elements: [thoughts, lineBreaks, textFormat] };
    expect(grammar({ toolChoice: "none", text, format: opened })).toEqual(thoughtful);
    const maybe = { reasoning: { isOpened: false, isIncluded: true } };
    const begun = { ...thoughtful, elements: [{ ...thoughts, begin: "<think>" }, lineBreaks, textFormat] };
    expect(grammar({ toolChoice: "none", text, format: maybe })).toEqual({
      type: "or",
      elements: [begun, textFormat],
    });
  });

  test("keeps the name of the parameter for errors", () => {
    const tools = [weather];
    expect(answerGrammar({ tools, toolChoice: "auto" }, plain, text)?.param).toBe("response_format");
    expect(answerGrammar({ tools, toolChoice: "required" }, plain, text)?.param).toBe("tools");
  });
});
