import { describe, expect, test } from "bun:test";
import { input } from "../../../src/routes/responses/items.ts";
import { toMessages } from "../../../src/routes/responses/to-messages.ts";
import { object, validate } from "../../../src/routes/validation.ts";

function messagesOf(value: unknown) {
  const items = validate(object({ input }), { input: value }).input;
  return toMessages(items.filter((item) => item.type !== "item_reference"));
}

const call = (id: string) => ({ type: "function_call", call_id: id, name: "look", arguments: "{}" });
const toolCall = (id: string) => ({ id, name: "look", arguments: "{}" });

describe("messages of items", () => {
  test("a string is a user's message", () => {
    expect(messagesOf("hi")).toEqual([{ role: "user", content: "hi" }]);
  });

  test("roles, and parts on lines of their own", () => {
    const parts = [
      { type: "input_text", text: "a" },
      { type: "input_text", text: "b" },
    ];
    expect(
      messagesOf([
        { role: "developer", content: "be brief" },
        { type: "message", role: "user", content: parts },
        { role: "assistant", content: [{ type: "output_text", text: "c", annotations: [], logprobs: [] }] },
      ]),
    ).toEqual([
      { role: "system", content: "be brief" },
      { role: "user", content: "a\nb" },
      { role: "assistant", content: "c" },
    ]);
  });

  test("thoughts, words and calls of an assistant are one message", () => {
    const thoughts = {
      type: "reasoning",
      id: "rs_1",
      summary: [],
      content: [{ type: "reasoning_text", text: "Hm" }],
    };
    expect(
      messagesOf([
        thoughts,
        { role: "assistant", content: "I look." },
        call("1"),
        call("2"),
        { type: "function_call_output", call_id: "1", output: "x" },
        { type: "function_call_output", call_id: "2", output: [{ type: "input_text", text: "y" }] },
      ]),
    ).toEqual([
      { role: "assistant", content: "I look.", reasoning: "Hm", toolCalls: [toolCall("1"), toolCall("2")] },
      { role: "tool", content: "x", toolCallId: "1" },
      { role: "tool", content: "y", toolCallId: "2" },
    ]);
  });

  test("two answers in a row, and thoughts after words, stay apart", () => {
    const said = (content: string) => ({ role: "assistant", content });
    const thoughts = { type: "reasoning", summary: [{ type: "summary_text", text: "Hm" }] };
    expect(messagesOf([said("a"), said("b"), thoughts, call("1")])).toEqual([
      { role: "assistant", content: "a" },
      { role: "assistant", content: "b" },
      { role: "assistant", content: "", reasoning: "Hm", toolCalls: [toolCall("1")] },
    ]);
  });
});

describe("items that are not accepted are named", () => {
  test.each([
    [
      "an image",
      [{ role: "user", content: [{ type: "input_image", image_url: "x" }] }],
      "input[0].content[0].type",
      "input_image",
    ],
    [
      "a file",
      [{ role: "user", content: [{ type: "input_file", file_id: "x" }] }],
      "input[0].content[0].type",
      "input_file",
    ],
    ["another kind of item", [{ type: "computer_call" }], "input[0].type", "computer_call"],
    [
      "an image from a tool",
      [{ ...call("1"), type: "function_call_output", output: [{ type: "input_image" }] }],
      "input[0].output[0].type",
      "input_image",
    ],
    ["an unknown field", [{ role: "user", content: "a", weight: 1 }], "input[0].weight", "unknown"],
    ["an unknown role", [{ role: "boss", content: "a" }], "input[0].role", "boss"],
    ["no content", [{ role: "user" }], "input[0].content", "nothing"],
    ["a number", [1], "input[0]", "1"],
    ["a number for all", 1, "input", "1"],
  ])("%s", (_name, value, param, got) => {
    const refused = () => messagesOf(value);
    expect(refused).toThrow(expect.objectContaining({ name: "InvalidRequestError", param }) as Error);
    expect(refused).toThrow(got);
  });
});
