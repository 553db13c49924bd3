/** Calls in text, however it is cut into pieces. */
import { describe, expect, test } from "bun:test";
import type { CallPart } from "../../../src/routes/conversation/tool-calls/format.ts";
import { toolCallFormats } from "../../../src/routes/conversation/tool-calls/registry.ts";
import { seededIntegers } from "../../engine/text/support.ts";

type Style = keyof typeof toolCallFormats;

const tools = new Set(["weather", "time"]);
const paris = '{"city": "Paris", "days": [1, 2]}';
const weather = `{"name": "weather", "arguments": ${paris}}`;
const time = '{"name": "time", "arguments": {}}';

/** What a text comes to, as text and [name, arguments] in order. */
type Told = (string | [string, string])[];

function join(parts: readonly CallPart[]): Told {
  const told: Told = [];
  for (const part of parts) {
    const last = told.at(-1);
    if (part.type === "call") told.push([part.name, ""]);
    else if (part.type === "text" && typeof last === "string") told[told.length - 1] = last + part.text;
    else if (part.type === "text") told.push(part.text);
    else if (Array.isArray(last)) last[1] += part.text;
    else throw new Error("arguments of no call");
  }
  return told;
}

function parse(style: Style, pieces: readonly string[]): CallPart[] {
  const parser = toolCallFormats[style].newParser(tools);
  return [...pieces.flatMap((piece) => parser.push(piece)), ...parser.end()];
}

/** The text whole, character by character, and cut in two everywhere. */
function expectTold(style: Style, text: string, told: Told): void {
  const cuts = Array.from({ length: text.length }, (_, at) => [text.slice(0, at), text.slice(at)]);
  for (const pieces of [[text], [...text], ...cuts]) {
    expect({ pieces, told: join(parse(style, pieces)) }).toEqual({ pieces, told });
  }
}

describe("hermes", () => {
  test.each<[string, string, Told]>([
    ["one call", `<tool_call>\n${weather}\n</tool_call>`, [["weather", paris]]],
    [
      "text before, white space between dropped",
      `I look.\n\n<tool_call>\n${weather}\n</tool_call>\n`,
      ["I look.", ["weather", paris]],
    ],
    [
      "two calls",
      `<tool_call>${weather}</tool_call>\n<tool_call>\n${time}\n</tool_call>`,
      [
        ["weather", paris],
        ["time", "{}"],
      ],
    ],
    ["text behind", `<tool_call>${time}</tool_call>\nDone.`, [["time", "{}"], "\nDone."]],
    [
      "arguments before the name",
      `<tool_call>{"arguments": ${paris}, "name": "weather"}</tool_call>`,
      [["weather", paris]],
    ],
    [
      "other members, and names within the arguments",
      '<tool_call>{"id": 1.5e3, "x": [null, {"name": "no"}], "name": "weather", "arguments": {"name": "time", "arguments": {}}}</tool_call>',
      [["weather", '{"name": "time", "arguments": {}}']],
    ],
    [
      "parameters for arguments",
      '<tool_call>{"name": "time", "parameters": {"a": 1}}</tool_call>',
      [["time", '{"a": 1}']],
    ],
    ["no arguments", '<tool_call>{"name": "time"}</tool_call>', [["time", "{}"]]],
    ["null for arguments", '<tool_call>{"name": "time", "arguments": null}</tool_call>', [["time", "{}"]]],
    [
      "arguments as JSON text in a string",
      '<tool_call>{"name": "time", "arguments": "{\\"a\\": \\"}\\"}"}</tool_call>',
      [["time", '{"a": "}"}']],
    ],
    [
      "marks, braces and escapes in a string",
      '<tool_call>{"name": "time", "arguments": {"a": "</tool_call> \\"}{ \\\\ \\u00e9 <tool_call>"}}</tool_call>',
      [["time", '{"a": "</tool_call> \\"}{ \\\\ \\u00e9 <tool_call>"}']],
    ],
    ["an end that is missing", `<tool_call>${weather}`, [["weather", paris]]],
    ["an end that is cut", `<tool_call>${weather}\n</tool_`, [["weather", paris]]],
    [
      "an end that is forgotten",
      `<tool_call>${weather}\n<tool_call>${time}</tool_call>`,
      [
        ["weather", paris],
        ["time", "{}"],
      ],
    ],
    [
      "arguments that are cut",
      '<tool_call>{"name": "weather", "arguments": {"city": "Par',
      [["weather", '{"city": "Par']],
    ],
    [
      "arguments that go wrong are told as they are",
      '<tool_call>{"name": "time", "arguments": {"a": oops}}\n</tool_call><tool_call>{"name": "time"}</tool_call>',
      [
        ["time", '{"a": oops}}\n'],
        ["time", "{}"],
      ],
    ],
  ])("%s", (_name, text, told) => expectTold("hermes", text, told));

  test.each([
    ["no call at all", "Hello <tool> < call> world </tool_call>\n\n"],
    ["the beginning of a mark", "Hello <tool_ca"],
    ["no JSON", "<tool_call>weather(Paris)</tool_call>"],
    ["an array", '<tool_call>["weather"]</tool_call>'],
    ["an unknown tool", '  <tool_call>\n{"name": "rm", "arguments": {}}</tool_call>'],
    ["no name", '<tool_call>{"arguments": {}}</tool_call> and so on'],
    ["a name that is no text", '<tool_call>{"name": 1, "arguments": {}}</tool_call>'],
    ["arguments that are no object", '<tool_call>{"name": "time", "arguments": [1]}</tool_call>'],
    [
      "arguments in a string that are no object",
      '<tool_call>{"name": "time", "arguments": "[1]"}</tool_call>',
    ],
    ["a call that is cut before anything is certain", '\n<tool_call>{"name": "weather", "arg'],
    ["JSON with a fault", '<tool_call>{"name": "time",, "arguments": {}}</tool_call>'],
    ["a number with a fault", '<tool_call>{"a": 1.2.3, "name": "time"}</tool_call>'],
    ["a control character in a string", '<tool_call>{"name": "ti\nme"}</tool_call>'],
    ["an escape with a fault", '<tool_call>{"a": "\\x", "name": "time"}</tool_call>'],
    ["a trailing comma", '<tool_call>{"name": "time",}</tool_call>'],
  ])("%s is text, all of it", (_name, text) => expectTold("hermes", text, [text]));

  test("a fault is text up to where it is seen, and a call behind it is a call", () => {
    expectTold("hermes", `<tool_call>no <tool_call>${time}</tool_call>`, ["<tool_call>no", ["time", "{}"]]);
  });

  test("arguments come as they are written, and never a part of a mark", () => {
    const parser = toolCallFormats.hermes.newParser(tools);
    expect(parser.push("Hi <too")).toEqual([{ type: "text", text: "Hi" }]);
    expect(parser.push("l_call>")).toEqual([]);
    expect(parser.push('{"name": "weather", "arguments": ')).toEqual([]);
    expect(parser.push('{"ci')).toEqual([
      { type: "call", name: "weather" },
      { type: "arguments", text: '{"ci' },
    ]);
    expect(parser.push('ty": 1')).toEqual([{ type: "arguments", text: 'ty": 1' }]);
    expect(parser.push("}}</tool_call")).toEqual([{ type: "arguments", text: "}" }]);
    expect(parser.push(">")).toEqual([]);
    expect(parser.end()).toEqual([]);
  });
});

describe("llama3-json", () => {
  const call = (name: string, text: string) => `{"name": "${name}", "parameters": ${text}}`;
  test.each<[string, string, Told]>([
    ["a bare call", call("weather", paris), [["weather", paris]]],
    ["white space around", `\n ${call("time", "{}")}\n`, [["time", "{}"]]],
    ["the mark before it", `<|python_tag|>${call("weather", paris)}`, [["weather", paris]]],
    [
      "several",
      `${call("weather", paris)}; ${call("time", "{}")}`,
      [
        ["weather", paris],
        ["time", "{}"],
      ],
    ],
    ["the mark behind text", `Well: <|python_tag|>${call("time", "{}")}`, ["Well:", ["time", "{}"]]],
    ["text behind", `${call("time", "{}")} is it`, [["time", "{}"], " is it"]],
  ])("%s", (_name, text, told) => expectTold("llama3-json", text, told));

  test.each([
    ["plain text", "Hello; world"],
    ["text and then JSON", `So: ${call("time", "{}")}`],
    ["other JSON", '{"name": "Ada", "parameters": {}}'],
    ["an object that goes on", '{"a": [1, 2, {"b": "c"}], "d": true}'],
    ["a brace", "{ and so on"],
  ])("%s is text", (_name, text) => expectTold("llama3-json", text, [text]));
});

test("whatever comes, text is not lost, and pieces make no difference", () => {
  const integers = seededIntegers(7);
  const words = [
    "<tool_call>",
    "</tool_call>",
    weather,
    time,
    "{",
    "}",
    '"',
    ":",
    "name",
    " ",
    "\n",
    "a",
    "[",
    ",",
    "1",
    "\\",
    "<|python_tag|>",
    ";",
  ];
  for (const style of ["hermes", "llama3-json"] as const) {
    for (let round = 0; round < 400; round++) {
      const pieces = Array.from({ length: 1 + integers(12) }, () => words[integers(words.length)]);
      const whole = join(parse(style, [pieces.join("")]));
      expect({ pieces, whole: join(parse(style, pieces)) }).toEqual({ pieces, whole });
      expect(join(parse(style, [...pieces.join("")]))).toEqual(whole);
      if (whole.every((part) => typeof part === "string")) expect(whole.join("")).toBe(pieces.join(""));
    }
  }
});
